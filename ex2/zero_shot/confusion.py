"""Which classes a VLM confuses: for each two classes, how often images of one lie nearer to the other's template text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.scoring.scorer import TextScorer
from ex2.texts.questions import TEMPLATE


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and how a VLM confuses them.

    Attributes:
        classes: Class ids i < j.
        error: Share of images of the two that the VLM puts nearer to the text of the other one: the mean of both classes'
            shares, so that a class with many images counts no more. 0.5 is chance.
        margin: By how much, in cosine, an image fits its own class's text better: the mean of both classes' means.
    """

    classes: tuple[int, int]
    error: float
    margin: float


def check_pair_count(most: int, classes: int, option: str = "pairs=") -> None:
    """Raise UserError where there are not `most` pairs of `classes` classes."""
    if most > classes * (classes - 1) // 2:
        raise UserError(
            f"{option}{most} is more than there are: {classes} classes make {classes * (classes - 1) // 2} pairs."
        )


def confused_pairs(scorer: TextScorer, most: int) -> list[ConfusedPair]:
    """The `most` pairs that the VLM confuses most on reward images, with the one-template text of each class."""
    bank = scorer.bank
    texts = scorer.embed([TEMPLATE.replace("{}", name) for name in bank.class_names])
    rows = bank.rows("reward")
    return most_confused(bank.embeddings[rows] @ texts.float().cpu().T, bank.labels[rows], most)


def most_confused(similarities: Tensor, labels: Tensor, most: int) -> list[ConfusedPair]:
    """The `most` pairs with the largest error; among equal errors (0 for most pairs) those with the smallest margin.

    Args:
        similarities: `(N, C)` cosines of N images with the texts of C classes; each class has images.
        labels: `(N,)` class ids of the images.
        most: How many, at most C (C - 1) / 2.
    """
    classes = similarities.shape[1]
    # Row c: how images of class c see the text of each class next to their own.
    error, margin = torch.zeros(2, classes, classes, dtype=torch.double)
    for class_id in range(classes):
        lead = similarities[labels == class_id].double()
        lead = lead[:, class_id, None] - lead
        error[class_id] = nearer_share(-lead)
        margin[class_id] = lead.mean(dim=0)
    # Plain lists: reading half a million elements of a tensor one by one takes seconds.
    errors, margins = (((values + values.T) / 2).tolist() for values in (error, margin))
    pairs = sorted(
        combinations(range(classes), 2), key=lambda pair: (-errors[pair[0]][pair[1]], margins[pair[0]][pair[1]], pair)
    )
    return [ConfusedPair((i, j), errors[i][j], margins[i][j]) for i, j in pairs[:most]]


def nearer_share(lead: Tensor) -> Tensor:
    """Share of the rows of `lead` (N, ...) that are above 0; rows of exactly 0, ties, count half."""
    return (lead.double().sign() + 1).mean(dim=0) / 2
