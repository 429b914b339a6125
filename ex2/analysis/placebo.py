"""Clauses changed on purpose: placebos, which say nothing about the class any more, and counterfactual edits of one word.

    swapped      the clause behind the name of another class, with that class's images
    scrambled    the clause's words in random order: what is left is a bag of words
    recoloured   every colour replaced by another one
    moved        every place replaced by another one

Each is read as the test `added` reads a clause, and what counts is what it says about the class that it is put to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ex2.analysis.contribution import Array, Similarity, framed
from ex2.analysis.judging import Judged
from ex2.texts.class_names import strip_name
from ex2.texts.controls import moved, recoloured, scrambled, some_of_each_class, swapped

PLACEBOS = ("swapped", "scrambled")
EDITS = ("recoloured", "moved")

PER_CLASS = 8
"""Descriptions of a class and system whose clauses are swapped and scrambled, at most."""


class Read(NamedTuple):
    """A changed clause as the VLM reads it.

    Attributes:
        class_id: The class that it is put to.
        text: ``NAME: clause.`` with that class's name.
        name: ``NAME.``
    """

    class_id: int
    text: str
    name: str


Changed = Mapping[str, Sequence[Read | None]]
"""For each way of changing them the clauses, one after the other; None where a clause is not changed in this way."""


def changed_clauses(judged: Judged, names: Sequence[str], seed: int) -> Changed:
    """The clauses of a system in all four ways: placebos of some descriptions of each class, edits of all that can be edited.

    Args:
        judged: The descriptions.
        names: Class names.
        seed: Draws the descriptions, the other classes and the order of words.
    """
    chosen = set(some_of_each_class(judged.class_ids, PER_CLASS, seed))
    others = swapped(judged.class_ids, seed)
    changed: dict[str, list[Read | None]] = {way: [] for way in (*PLACEBOS, *EDITS)}

    def put(class_id: int, clause: str | None) -> Read | None:
        return None if clause is None else Read(class_id, framed(names[class_id], clause), framed(names[class_id]))

    for position, (passage, own, other) in enumerate(zip(judged.passages, judged.class_ids, others, strict=True)):
        for clause in passage.clauses:
            tried = position in chosen
            changed["swapped"].append(put(other, strip_name(clause, passage.class_name)) if tried else None)
            changed["scrambled"].append(put(own, scrambled(clause, seed)) if tried else None)
            changed["recoloured"].append(put(own, recoloured(clause)))
            changed["moved"].append(put(own, moved(clause)))
    return changed


def texts_of(changed: Changed) -> Iterable[str]:
    """Every text that `about` reads: encode them with the others."""
    return (text for reads in changed.values() for read in reads if read is not None for text in (read.text, read.name))


def about(similarity: Similarity, changed: Changed) -> dict[str, Array]:
    """What each changed clause adds for its class beyond the others: ``about_WAY``, NaN where a clause is not changed."""
    columns = {}
    for way, reads in changed.items():
        values = np.full(len(reads), np.nan)
        places = [place for place, read in enumerate(reads) if read is not None]
        chosen = [read for read in reads if read is not None]
        if chosen:
            ids = [read.class_id for read in chosen]
            with_clause, bare = [read.text for read in chosen], [read.name for read in chosen]
            values[places] = (
                similarity.own(with_clause, ids)
                - similarity.others(with_clause, ids)
                - similarity.own(bare, ids)
                + similarity.others(bare, ids)
            )
        columns[f"about_{way}"] = values
    return columns
