"""The direct probe: written sentences of each kind, scored on held-out images, and whether the verdict agrees with them.

A policy says what it found; the probe asks the VLM itself. Kinds of sentences are compared within each class, so that classes
may differ, and in two readings: the sentence as it is, which has no name in it, and what it adds to the name of its class. The
second is what the contribution tests measure of the policy's clauses, so that is the one that the verdict is held against.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from ex2.analysis.contribution import Similarity
from ex2.analysis.findings import class_interval
from ex2.base.shown import listed
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import SHARE, bracket
from ex2.texts.probe import KINDS, SPOKEN, ProbeSentence, check_probe, kinds_of
from ex2.texts.questions import TEMPLATE
from ex2.texts.readings import Reading
from ex2.zero_shot.vectors import class_vectors, images_of, zero_shot_by_class

READINGS = ("nameless", "framed")
DECIDES = "framed"
"""The reading that the verdict is compared with: the contribution tests score the policy's clauses in the same way."""

_LEVEL = 0.95

Above = Collection[tuple[str, str]]
"""Pairs of kinds: the VLM scores the first above the second."""


# ---------------------------------------------------------------- tables


def probe_tables(
    sentences: Sequence[ProbeSentence], similarity: Similarity, scorer: TextScorer
) -> dict[str, pd.DataFrame]:
    """The tables ``probe``, one row a kind, and ``probe_differences``, one row a reading and pair of kinds.

    Intervals are over classes, those of a table and reading for all its rows at once (Bonferroni).

    Args:
        sentences: The probe; every class has each of its kinds.
        similarity: Compares texts with held-out images.
        scorer: VLM and bank, for zero-shot classification.

    Raises:
        UserError: Sentences that cannot be compared, see `check_probe`.
    """
    check_probe(sentences, scorer.bank.class_names)
    kinds = kinds_of(sentences)
    scores = {reading: class_scores(sentences, similarity, scorer.bank.class_names, reading) for reading in READINGS}
    return {
        "probe": _kind_table(sentences, kinds, scores, similarity, scorer),
        "probe_differences": _difference_table(kinds, scores),
    }


def class_scores(
    sentences: Sequence[ProbeSentence], similarity: Similarity, class_names: Sequence[str], reading: str
) -> pd.DataFrame:
    """Mean cosine, as it is read, of each class's sentences of each kind: a row a class id, a column a kind."""
    names = [sentence.class_name for sentence in sentences]
    ids = [class_names.index(name) for name in names]
    texts = [sentence.text for sentence in sentences]
    values = Reading.of([reading]).score(lambda read: similarity.own(read, ids), texts, names)
    table = pd.DataFrame({"class_id": ids, "kind": [sentence.kind for sentence in sentences], "score": values})
    return table.pivot_table(index="class_id", columns="kind", values="score", aggfunc="mean")[kinds_of(sentences)]


def centred(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores (classes x kinds) minus the mean of all kinds of the class."""
    return scores.sub(scores.mean(axis=1), axis=0)


def _kind_table(
    sentences: Sequence[ProbeSentence],
    kinds: Sequence[str],
    scores: dict[str, pd.DataFrame],
    similarity: Similarity,
    scorer: TextScorer,
) -> pd.DataFrame:
    level = 1 - (1 - _LEVEL) / len(kinds)
    rows = []
    for kind in kinds:
        row: dict[str, Any] = {"kind": kind, "category": KINDS[kind]}
        for reading, table in scores.items():
            values = centred(table)[kind]
            row[f"{reading}_mean"] = float(table[kind].mean())
            row |= _ends(f"{reading}_centred", class_interval(values, values.index, level))
        own = [sentence for sentence in sentences if sentence.kind == kind]
        accuracy = _accuracy(own, similarity, scorer)
        row |= _ends("top1", class_interval(accuracy, accuracy.index, bounds=SHARE))
        rows.append({**row, "classes": len(accuracy), "n": len(own)})
    return pd.DataFrame(rows)


def _accuracy(sentences: Sequence[ProbeSentence], similarity: Similarity, scorer: TextScorer) -> pd.Series:
    """Share of each class's held-out images that are nearest to their own class's sentences; other classes keep a template."""
    names = scorer.bank.class_names
    ids = [names.index(sentence.class_name) for sentence in sentences]
    templates = similarity.embeddings([TEMPLATE.replace("{}", name) for name in names])
    vectors = class_vectors(templates, similarity.embeddings([sentence.text for sentence in sentences]), ids)
    by_class = zero_shot_by_class(vectors, *images_of(scorer.bank, "heldout"))
    covered = np.unique(ids)
    return pd.Series(by_class[covered], index=covered)


def _difference_table(kinds: Sequence[str], scores: dict[str, pd.DataFrame]) -> pd.DataFrame:
    pairs = list(combinations(kinds, 2))
    level = 1 - (1 - _LEVEL) / len(pairs)
    rows = []
    for reading, table in scores.items():
        for kind, other in pairs:
            difference = table[kind] - table[other]
            interval = class_interval(difference, difference.index, level)
            rows.append({"reading": reading, "kind": kind, "other": other, **interval, "classes": len(difference)})
    return pd.DataFrame(rows)


def _ends(prefix: str, interval: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{end}": value for end, value in interval.items()}


# ---------------------------------------------------------------- what it amounts to

Outcome = Literal["agrees", "contradicts", "open", "undecided"]


@dataclass(frozen=True)
class Answer:
    """What the probe says to the verdict from the policy's texts.

    Attributes:
        outcome: ``undecided`` where the verdict prefers nothing, ``open`` where the probe neither confirms nor contradicts it.
        sentence: The same in words.
    """

    outcome: Outcome
    sentence: str


def above(differences: pd.DataFrame, reading: str = DECIDES) -> set[tuple[str, str]]:
    """Pairs of kinds of which the first scores above the second with the whole interval.

    Args:
        differences: The table ``probe_differences``.
        reading: ``nameless`` or ``framed``.
    """
    own = differences[differences["reading"] == reading]
    return {(row.kind, row.other) for row in own[own["low"] > 0].itertuples()} | {
        (row.other, row.kind) for row in own[own["high"] < 0].itertuples()
    }


def outcome(preferred: Collection[str], kinds: Sequence[str], above: Above) -> Outcome:
    """Whether a verdict agrees with the probe.

    It agrees if each preferred category has a kind that is above every kind of the categories that are not preferred; it
    contradicts if a kind of those is above every kind of a preferred category.

    Args:
        preferred: Categories that the verdict prefers; may be empty.
        kinds: Kinds of the probe.
        above: From `above`.
    """
    if not preferred:
        return "undecided"
    inside, outside = _sides(preferred, kinds)
    if not outside or not all(inside):  # nothing to compare with
        return "open"
    if any(_better(outside, own, above) for own in inside):
        return "contradicts"
    return "agrees" if all(any(_beats(kind, outside, above) for kind in own) for own in inside) else "open"


def answer_to(preferred: Collection[str], kinds: Sequence[str], above: Above) -> Answer:
    """`outcome` with its sentence; arguments as there."""
    found = outcome(preferred, kinds, above)
    inside, outside = _sides(preferred, kinds)
    if found == "agrees":
        best = [kind for own in inside for kind in own if _beats(kind, outside, above)]
        return Answer(found, f"The direct probe agrees: asked directly, the VLM scores {_above(best, outside)}.")
    if found == "contradicts":
        worse = [_above(better, own) for own in inside if (better := _better(outside, own, above))]
        return Answer(
            found, f"The direct probe contradicts the verdict: asked directly, the VLM scores {listed(worse)}."
        )
    first, rest = leaders(kinds, above)
    asked = f"scores {_above(first, rest)}" if rest else "puts no kind of sentence above all others"
    if found == "undecided":
        return Answer(found, f"The policy's texts leave it undecided; asked directly, the VLM {asked}.")
    return Answer(
        found, f"The direct probe neither confirms nor contradicts the verdict: asked directly, the VLM {asked}."
    )


def _sides(preferred: Collection[str], kinds: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The kinds of each preferred category, and those of the other categories."""
    inside = [[kind for kind in kinds if KINDS[kind] == category] for category in preferred]
    return inside, [kind for kind in kinds if KINDS[kind] not in preferred]


def _better(outside: Sequence[str], own: Sequence[str], above: Above) -> list[str]:
    """The kinds of other categories that are above every kind of this one."""
    return [kind for kind in outside if _beats(kind, own, above)]


def leaders(kinds: Sequence[str], above: Above) -> tuple[list[str], list[str]]:
    """The kinds that no other is above, and the kinds that each of these is above, which may be none."""
    first = [kind for kind in kinds if not any((other, kind) in above for other in kinds)]
    return first, [kind for kind in kinds if all((one, kind) in above for one in first)]


def _beats(kind: str, others: Iterable[str], above: Above) -> bool:
    return all((kind, other) in above for other in others)


def _above(kinds: Sequence[str], others: Sequence[str]) -> str:
    return f"{listed([SPOKEN[kind] for kind in kinds])} above {listed([SPOKEN[kind] for kind in others])}"


def format_probe(probe: pd.DataFrame) -> str:
    """The table ``probe`` as monospace text."""
    lines = [f"{'probe':<14}{'nameless, centred':>28}{'framed, centred':>28}{'zero-shot':>11}"]
    for row in probe.to_dict("records"):
        cells = [
            f"{row[f'{reading}_centred_mean']:+.3f} "
            + bracket(row[f"{reading}_centred_low"], row[f"{reading}_centred_high"], "+.3f")
            for reading in READINGS
        ]
        lines.append(f"{SPOKEN[row['kind']]:<14}{cells[0]:>28}{cells[1]:>28}{row['top1_mean']:>11.3f}")
    return "\n".join(lines)
