"""Pair accuracy: do sentences that contrast two classes tell the images of the two apart?

A class's vector is the normalised mean of the unit embeddings of its sentences against the other class. An image of the pair
is told apart where it lies nearer to its own class's vector; a tie counts half. The accuracy of a pair is the mean of both
classes' shares, so that 0.5 is chance whatever the numbers of images. The pair is the unit of chance: intervals resample pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import DIFFERENCE, SHARE, Interval, bracket, mean_interval
from ex2.texts.pairs import both_ways
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.confusion import nearer_share

IMAGE_SETS = ("reward", "heldout")

Pair = tuple[int, int]
Texts = Mapping[Pair, Sequence[str]]
"""Sentences about class i against class j, under (i, j)."""


@dataclass(frozen=True)
class PairScores:
    """The pair accuracies of one system.

    Attributes:
        name: What the table calls it.
        reward: Accuracy of each pair on reward images, length P.
        heldout: The same on held-out images.
        sentences: Number of its sentences about all P pairs.
    """

    name: str
    reward: tuple[float, ...]
    heldout: tuple[float, ...]
    sentences: int


def score_pairs(name: str, scorer: TextScorer, texts: Texts, pairs: Sequence[Pair]) -> PairScores:
    """The accuracies of one system on `pairs`; `texts` has sentences for both orders of each."""
    directions = both_ways(pairs)
    embeddings = scorer.embed([text for key in directions for text in texts[key]])
    groups = embeddings.float().cpu().split([len(texts[key]) for key in directions])
    means = torch.stack([group.mean(dim=0) for group in groups])
    vectors = torch.nn.functional.normalize(means, dim=1).view(len(pairs), 2, -1)
    bank = scorer.bank
    accuracies = {}
    for split in IMAGE_SETS:
        rows = bank.rows(split)
        images, labels = bank.embeddings[rows], bank.labels[rows]
        accuracies[split] = tuple(
            pair_accuracy(*(images[labels == class_id] @ both.T for class_id in pair))
            for pair, both in zip(pairs, vectors, strict=True)
        )
    return PairScores(name, **accuracies, sentences=len(embeddings))


def pair_accuracy(first: Tensor, second: Tensor) -> float:
    """Mean share of images nearer to their own class's vector than to the other's.

    Args:
        first: `(N, 2)` cosines of the first class's images with the vectors of the first and the second class.
        second: `(M, 2)` the same of the second class's images.
    """
    leads = (first[:, 0] - first[:, 1], second[:, 1] - second[:, 0])
    return sum(float(nearer_share(lead)) for lead in leads) / 2


def name_texts(class_names: Sequence[str], pairs: Sequence[Pair], template: str = TEMPLATE) -> dict[Pair, list[str]]:
    """One text a class, the same against every other class: the control."""
    return {(i, j): [template.replace("{}", class_names[i])] for i, j in both_ways(pairs)}


def summarise(systems: Sequence[PairScores], class_names: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Means with intervals, and the last system minus each other one, paired by pair, as a plain dict for JSON.

    Returns:
        `systems`: name -> `reward`, `heldout` (each mean, low, high) and `sentences`; `differences`: name -> `reward` and
        `heldout`; `pairs`: the class names of each pair and its held-out accuracy by system.
    """
    *others, last = systems
    return {
        "systems": {
            system.name: {split: _mean(getattr(system, split), SHARE) for split in IMAGE_SETS}
            | {"sentences": system.sentences}
            for system in systems
        },
        "differences": {
            f"{last.name} - {other.name}": {
                split: _mean(np.subtract(getattr(last, split), getattr(other, split)), DIFFERENCE)
                for split in IMAGE_SETS
            }
            for other in others
        },
        "pairs": [
            {
                "classes": [class_names[i], class_names[j]],
                "heldout": {system.name: system.heldout[number] for system in systems},
            }
            for number, (i, j) in enumerate(pairs)
        ],
    }


def _mean(values: ArrayLike, bounds: tuple[float, float]) -> dict[str, float | None]:
    values = np.asarray(values)
    interval = mean_interval(values, bounds=bounds) if len(values) > 1 else Interval(float(values[0]), np.nan, np.nan)
    return interval.as_dict()


def format_table(summary: Mapping[str, Any]) -> str:
    """The systems and the differences as a monospace table."""
    count = len(summary["pairs"])

    def cells(name: str, entry: Mapping[str, Any], sign: str) -> list[str]:
        shown = []
        for value in (entry[split] for split in IMAGE_SETS):
            ends = bracket(value["low"], value["high"], f"{sign}.3f") if count > 1 else "needs 2 pairs"
            shown.append(f"{value['mean']:{sign}.3f} {ends}")
        return [name, *shown, str(entry.get("sentences", ""))]

    rows = [[f"accuracy on {count} pairs", "reward images", "held-out images", "sentences"]]
    rows += [cells(name, entry, "") for name, entry in summary["systems"].items()]
    rows += [cells(name, entry, "+") for name, entry in summary["differences"].items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    first_difference = 1 + len(summary["systems"])
    return "\n".join(
        line.rstrip() for line in [lines[0], rule, *lines[1:first_difference], rule, *lines[first_difference:]]
    )
