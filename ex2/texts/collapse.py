"""Collapse: a policy that is paid more for saying less, the same over and over, or nothing but a name.

What such a policy says is a shortcut to the reward and tells nothing about what a VLM prefers. No judge is needed to see it, so
that a training run and an analysis say the same. `ex2.rewards.monitors.alarms` watches for the same signs while a policy trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from ex2.texts.categories import split_clauses
from ex2.texts.class_names import strip_name
from ex2.texts.tautologies import says_nothing, tautology_rate

WORDS_LEFT = 0.5
"""Texts of fewer words than this share of the untrained policy's, and of fewer than `FEW_WORDS`, are a collapse."""

FEW_WORDS = 9.0
"""So many words make a sentence that describes; an untrained policy's may be long for rambling up to the limit."""

PAIRS_LEFT = 0.6
"""The same of the share of word pairs that are distinct among one text of each class."""

DISTINCT_LEFT = 0.5
"""The same of the share of texts that are distinct, the names of their classes aside."""

EMPTY_TEXTS = 0.25
"""Above this share of texts that say nothing but name and kind, and `RISE` above the untrained policy's, texts have collapsed."""

EMPTY_CLAUSES = 0.5
"""The same of clauses."""

RISE = 0.1

Texts = Sequence[tuple[str, str]]
"""Class name and text."""


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct word pairs over all word pairs of the texts (Li et al. 2016, arXiv:1510.03055): low means stock phrases."""
    pairs = [pair for text in texts for pair in zip(text.lower().split(), text.lower().split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def signs_of_collapse(aligned: Texts, base: Texts = ()) -> list[str]:
    """In which ways texts have collapsed, each as the end of the sentence "The policy's texts ..."; none where they have not.

    They are compared with the untrained policy's texts. Without these only whole texts that repeat and names are looked at, as if
    the untrained policy never repeated itself and always said something: how many words or phrases are few cannot be said.

    Args:
        aligned: The texts under study.
        base: The untrained policy's.
    """
    if not aligned:
        return []
    signs = []
    before = f", {_words(base):.1f} before training" if base else ""
    if base and _words(aligned) < min(WORDS_LEFT * _words(base), FEW_WORDS):
        signs.append(f"shrank to {_words(aligned):.1f} words{before}")
    ours, theirs = _variety(aligned, base), _variety(base, aligned) if base else (1.0, 1.0)
    if ours[0] < DISTINCT_LEFT * theirs[0]:
        signs.append(
            f"repeat each other: {_share(ours[0], theirs[0], base)} are different once the class name is taken out"
        )
    elif base and ours[1] < PAIRS_LEFT * theirs[1]:
        signs.append(
            f"became stock phrases for all classes: {_share(ours[1], theirs[1], base)} of the word pairs are different where "
            "each class has one text"
        )
    texts, clauses = _empty(aligned)
    texts_before, clauses_before = _empty(base) if base else (0.0, 0.0)
    if clauses > max(EMPTY_CLAUSES, clauses_before + RISE):
        signs.append(f"are mostly names: {_share(clauses, clauses_before, base)} of their clauses {_NOTHING}")
    elif texts > max(EMPTY_TEXTS, texts_before + RISE):
        signs.append(f"often are only names: {_share(texts, texts_before, base)} of them {_NOTHING}")
    return signs


_NOTHING = "say nothing but the class name again or what kind of thing it is"


def _share(ours: float, theirs: float, base: Texts) -> str:
    return f"{ours:.0%}" + (f" ({theirs:.0%} before training)" if base else "")


def _words(texts: Texts) -> float:
    return sum(len(text.split()) for _, text in texts) / len(texts)


def _variety(texts: Texts, others: Texts) -> tuple[float, float]:
    """Share of distinct texts, and share of distinct word pairs among one text of each class, names taken out.

    More texts repeat more: of each class as many are looked at as there are on both sides; without `others`, all. That a policy
    settles on what is best to say of a class is what training is for, so phrases are stock where classes share them: word pairs
    are counted in the first text of every class, in the second of every class and so on, and the shares averaged.
    """
    own, there = _by_name(texts), _by_name(others)
    nameless = {
        name: [
            " ".join(strip_name(text, name).casefold().split())
            for text in (said[: len(there.get(name, ()))] if others else said)
        ]
        for name, said in own.items()
    }
    everything = [text for said in nameless.values() for text in said]
    if not everything:
        return 1.0, 1.0
    rounds = zip_longest(*nameless.values())
    pairs = [distinct_2([text for text in one_each if text is not None]) for one_each in rounds]
    return len(set(everything)) / len(everything), sum(pairs) / len(pairs)


def _by_name(texts: Texts) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    for name, text in texts:
        said.setdefault(name, []).append(text)
    return said


def _empty(texts: Texts) -> tuple[float, float]:
    """Shares of texts and of clauses that say nothing but name and kind."""
    clauses = [says_nothing(clause, name) for name, text in texts for clause in split_clauses(text)]
    return tautology_rate([text for _, text in texts], [name for name, _ in texts]), sum(clauses) / len(clauses)
