"""From descriptions to findings: what is said, what it adds, and how it compares with controls, as tables.

`analyse` judges every clause, runs the contribution tests and controls, and returns a `Study`: tidy tables and a summary
from which the report, the notebooks and `ex2 compare` work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ex2.analysis import contribution
from ex2.analysis.contribution import Similarity
from ex2.analysis.findings import (
    UNSURE,
    attribute_shares,
    class_interval,
    contributions,
    first_and_last,
    hacking_warnings,
    preference_table,
    question_warnings,
    share_change,
    shares,
    shares_by,
    verdict,
)
from ex2.base.errors import UserError
from ex2.base.files import to_json, write_atomically
from ex2.scoring.scorer import TextScorer
from ex2.stats.before_after import SystemScores, summarise
from ex2.texts.categories import CATEGORIES, Judge, Judgement, Passage, of_text
from ex2.texts.descriptions import Description
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.vectors import class_vectors, images_of, zero_shot_by_class

CHANGED_PER_CLASS = 32  # descriptions that are scrambled, swapped and renamed at most
APART_PER_CLASS = 64  # descriptions of a system that are tried with clauses in other order or left out, at most


@dataclass
class Study:
    """What an analysis found.

    Attributes:
        tables: Tidy tables by name; `docs/analysis.md` describes their columns.
        summary: What the tables say together, ready for JSON: facts about the study, the controls, the verdict on each
            category and warnings in words.
    """

    tables: dict[str, pd.DataFrame]
    summary: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` and each table as Parquet and CSV into ``folder/tables``, each file atomically."""
        for name, table in self.tables.items():
            write_atomically(folder / "tables" / f"{name}.parquet", table.to_parquet(index=False))
            write_atomically(folder / "tables" / f"{name}.csv", table.to_csv(index=False).encode())
        write_atomically(folder / "summary.json", to_json(self.summary))

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study that `ex2 analyze` wrote into a folder.

        Raises:
            UserError: The folder holds none, or not a whole one.
        """
        path = folder / "summary.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no analysis: summary.json is missing; `ex2 analyze` writes it.")
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            tables = {name: pd.read_parquet(folder / "tables" / f"{name}.parquet") for name in summary["tables"]}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{folder} holds a damaged analysis ({error}); run `ex2 analyze` again.") from error
        return cls(tables, summary)


@dataclass(frozen=True)
class Judged:
    """The texts of one system with their judgements.

    Attributes:
        system: ``aligned`` (the descriptions under study) or ``base`` (the untrained policy's).
        records: N descriptions.
        passages: N.
        clauses: Judgements of each passage's clauses.
        texts: Judgement of each text.
    """

    system: str
    records: Sequence[Description]
    passages: list[Passage]
    clauses: list[tuple[Judgement, ...]]
    texts: list[Judgement] = field(default_factory=list)

    @property
    def class_ids(self) -> list[int]:
        return [record.class_id for record in self.records]

    def apart(self, seed: int) -> list[bool]:
        """Which descriptions are taken apart; more of a class would take long and narrow its interval little."""
        chosen = set(contribution.some_of_each_class(self.class_ids, APART_PER_CLASS, seed))
        return [position in chosen for position in range(len(self.records))]


def judge_all(judge: Judge, systems: Mapping[str, Sequence[Description]], *, progress: bool = True) -> list[Judged]:
    """Cut all texts into clauses and judge them in one go."""
    passages = {name: [Passage.of(r.class_name, r.text) for r in records] for name, records in systems.items()}
    everything = [passage for own in passages.values() for passage in own]
    answers = judge.judge(everything, progress=progress)
    judged = []
    start = 0
    for name, records in systems.items():
        own = answers[start : start + len(records)]
        start += len(records)
        judged.append(Judged(name, records, passages[name], own, [of_text(clauses) for clauses in own]))
    return judged


def analyse(
    aligned: Sequence[Description],
    scorer: TextScorer,
    judge: Judge,
    *,
    base: Sequence[Description] = (),
    best_of_n: Sequence[Description] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    seed: int = 0,
    exact: bool = True,
    progress: bool = True,
    on_step: Callable[[str], None] = lambda step: None,
) -> Study:
    """Judge, test and compare descriptions.

    Args:
        aligned: The descriptions under study; at least two classes.
        scorer: VLM and bank that the descriptions are tested with; tests use its held-out images.
        judge: Tells categories apart.
        base: Descriptions of the same classes by the untrained policy; without them nothing is said about change.
        best_of_n: The best of the untrained policy's descriptions of each class under the reward.
        metrics: Rows of the run's metrics, for the learning curve and the monitors.
        meta: Facts about the study that the report shows.
        seed: Of the bootstrap and the random controls.
        exact: Encode in float32 also where the processor is faster in bfloat16.
        progress: Whether to draw progress bars.
        on_step: Told what is being done next.

    Raises:
        UserError: Descriptions of fewer than two classes.
    """
    class_names = scorer.bank.class_names
    found = len({record.class_id for record in aligned})
    if found < 2:
        raise UserError(
            f"the descriptions are about {found} class: intervals and tests are over classes and need two; describe more classes."
        )
    shared = {record.class_id for record in aligned} & {record.class_id for record in base}
    if base and len(shared) < 2:
        raise UserError(
            f"the untrained policy's texts share {len(shared)} class(es) with the descriptions: a comparison needs two."
        )
    on_step("judging clauses")
    systems = {"aligned": aligned, **({"base": base} if base else {})}
    judged = judge_all(judge, systems, progress=progress)

    on_step("encoding texts for the contribution tests")
    similarity = Similarity(scorer, exact=exact)
    similarity.encode(
        [text for part in judged for text in contribution.all_texts(part.passages, part.apart(seed))], progress=progress
    )
    texts, clauses = _text_table(judged, similarity, seed), _clause_table(judged, similarity, seed)

    on_step("bootstrap")
    tables = {
        "descriptions": texts,
        "clauses": clauses,
        "shares": shares(texts, clauses, seed),
        "share_change": share_change(texts, clauses, seed),
        "shares_by_class": shares_by(texts, ["class_id", "class_name"]),
        "shares_by_question": shares_by(texts, ["question"]),
        "attributes": attribute_shares(clauses, seed),
        "contributions": contributions(texts, clauses, seed),
        "zero_shot": _zero_shot(judged[0], similarity, scorer, seed),
    }
    tables["preference"] = preference_table(tables["share_change"], tables["contributions"])
    on_step("controls")
    controls = _controls(judged, best_of_n, scorer.bank.class_names, similarity, seed)
    monitors = first_and_last(metrics)
    summary = summarise(controls, class_names, meta=dict(meta or {}), monitors=monitors, seed=seed)
    tables["controls"] = _control_table(summary)
    if metrics:
        tables["learning_curve"] = pd.DataFrame(list(metrics))
    summary |= {
        "judge": judge.name,
        "descriptions": len(aligned),
        "base_descriptions": len(base),
        "classes": found,
        "classes_of_dataset": len(class_names),
        "unsure": float((texts.query("system == 'aligned'")["category"] == UNSURE).mean()),
        "verdict": verdict(tables["preference"]),
        "warnings": summary["warnings"] + hacking_warnings(texts, monitors) + question_warnings(texts),
        "tables": sorted(tables),
    }
    return Study(tables, summary)


# ---------------------------------------------------------------- one row a text, one row a clause


def _judgement_columns(judgements: Sequence[Judgement]) -> dict[str, Any]:
    return {
        "category": [j.category or UNSURE for j in judgements],
        "probability": [j.probability for j in judgements],
        **{f"p_{name}": [j.probabilities[i] for j in judgements] for i, name in enumerate(CATEGORIES)},
        "tags": [" ".join(j.tags) for j in judgements],
    }


def _text_table(judged: Sequence[Judged], similarity: Similarity, seed: int) -> pd.DataFrame:
    parts = []
    for part in judged:
        columns = {
            "system": part.system,
            "class_id": part.class_ids,
            "class_name": [r.class_name for r in part.records],
            "question": [r.question for r in part.records],
            "text": [r.text for r in part.records],
            **_judgement_columns(part.texts),
            **contribution.text_tests(similarity, part.passages, part.class_ids, part.apart(seed)),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _clause_table(judged: Sequence[Judged], similarity: Similarity, seed: int) -> pd.DataFrame:
    parts, first = [], 0
    for part in judged:
        sizes = [len(passage.clauses) for passage in part.passages]
        columns = {
            "system": part.system,
            "description": np.repeat(np.arange(first, first + len(sizes)), sizes),
            "class_id": np.repeat(part.class_ids, sizes),
            "class_name": np.repeat([r.class_name for r in part.records], sizes),
            "clause": [clause for passage in part.passages for clause in passage.clauses],
            **_judgement_columns([j for own in part.clauses for j in own]),
            **contribution.clause_tests(similarity, part.passages, part.class_ids, part.apart(seed)),
        }
        parts.append(pd.DataFrame(columns))
        first += len(sizes)
    return pd.concat(parts, ignore_index=True)


def _zero_shot(aligned: Judged, similarity: Similarity, scorer: TextScorer, seed: int) -> pd.DataFrame:
    """Accuracy of classifying held-out images, and its gain over the template, with texts of each category alone."""
    bank = scorer.bank
    images, labels = images_of(bank, "heldout")
    templates = similarity.embeddings([TEMPLATE.replace("{}", name) for name in bank.class_names])
    by_class = zero_shot_by_class(templates, images, labels)
    all_classes = np.arange(len(by_class))
    zero = {"gain_mean": 0.0, "gain_low": 0.0, "gain_high": 0.0}
    row = {"texts": "template", **class_interval(by_class, all_classes, seed), **zero}
    rows: list[dict[str, Any]] = [{**row, "classes": len(by_class), "n": len(by_class)}]
    embeddings = similarity.embeddings([" ".join(passage.clauses) for passage in aligned.passages])
    class_ids = np.asarray(aligned.class_ids)
    categories = np.array([j.category or UNSURE for j in aligned.texts])
    for name, chosen in (("all", categories != ""), *((name, categories == name) for name in CATEGORIES)):
        if not chosen.any():
            continue
        vectors = class_vectors(templates, embeddings[np.flatnonzero(chosen)], class_ids[chosen].tolist())
        accuracy = zero_shot_by_class(vectors, images, labels)
        covered = np.unique(class_ids[chosen])
        gain = class_interval((accuracy - by_class)[covered], covered, seed)
        rows.append(
            {
                "texts": name,
                **class_interval(accuracy[covered], covered, seed),
                **{f"gain_{key}": value for key, value in gain.items()},
                "classes": len(covered),
                "n": int(chosen.sum()),
            }
        )
    return pd.DataFrame(rows)


def _controls(
    judged: Sequence[Judged],
    best_of_n: Sequence[Description],
    names: Sequence[str],
    similarity: Similarity,
    seed: int,
) -> list[SystemScores]:
    """Every system of the controls table with its scores on reward and held-out images."""
    rewarded = similarity.on("reward")
    aligned = judged[0]
    texts, ids = [r.text for r in aligned.records], aligned.class_ids
    described = sorted(set(ids))
    changed = contribution.some_of_each_class(ids, CHANGED_PER_CLASS, seed)
    changed_texts, changed_ids = [texts[i] for i in changed], [ids[i] for i in changed]
    others = contribution.swapped(changed_ids, seed)
    waffle = contribution.random_words(
        names, [r.text for part in judged for r in part.records], min(contribution.WAFFLES_PER_CLASS, len(texts)), seed
    )
    waffle = [(class_id, text) for class_id, text in waffle if class_id in set(described)]
    systems: dict[str, tuple[list[int], list[str]]] = {
        "class_name": (described, [names[i] for i in described]),
        "template": (described, [TEMPLATE.replace("{}", names[i]) for i in described]),
        "random_words": ([i for i, _ in waffle], [text for _, text in waffle]),
        **{part.system: (part.class_ids, [r.text for r in part.records]) for part in judged},
        "scrambled": (changed_ids, [contribution.scrambled(text, seed) for text in changed_texts]),
        "swapped": (others, changed_texts),
        "renamed": (
            others,
            [
                contribution.renamed(text, names[own], names[other])
                for text, own, other in zip(changed_texts, changed_ids, others, strict=True)
            ],
        ),
    }
    if best_of_n:
        systems["best_of_n"] = ([r.class_id for r in best_of_n], [r.text for r in best_of_n])
    return [
        SystemScores(name, own, rewarded.own(system_texts, own), similarity.own(system_texts, own), system_texts)
        for name, (own, system_texts) in systems.items()
    ]


def _control_table(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Controls, one row a system and image set, with the aligned policy's advantage over it."""
    rows = []
    for name, entry in summary.items():
        if not (isinstance(entry, dict) and "heldout" in entry and not name.startswith("aligned_minus_")):
            continue
        for images in ("reward", "heldout"):
            row: dict[str, Any] = {"system": name, "images": images, **entry[images]}
            advantage = summary.get(f"aligned_minus_{name}", {}).get(images, {})
            row |= {f"aligned_minus_{key}": advantage.get(key, np.nan) for key in ("mean", "low", "high")}
            rows.append({**row, "distinct": entry["distinct"], "n": entry["n"], "classes": entry["classes"]})
    return pd.DataFrame(rows)
