"""Zero-shot classification: class vectors from texts, predictions, and accuracies with their intervals.

An image belongs to the class whose vector has the highest dot product with the image's unit embedding. A class's vector
is made of the unit embeddings t of the texts about it:

    embeddings    mean of t, made a unit vector again: the usual prompt ensemble (Radford et al. 2021, section 3.1.4)
    scores        mean of t as it is, so that the dot product is the mean of the texts' cosines (Menon and Vondrick 2023)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.stats.intervals import DIFFERENCE, SHARE, Interval, cluster_interval, paired_difference

Average = Literal["embeddings", "scores"]
TOP = 5  # classes that a prediction names
WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of texts beside names, that are tried

_BLOCK = 2**18  # similarities at once: they stay in the processor's cache, and need no fresh memory


# ---------------------------------------------------------------- class vectors


@dataclass(frozen=True, eq=False)
class TextSums:
    """The texts of G groups (classes, or ordered pairs of classes) as far as classification needs them.

    Attributes:
        sums: ``(G, D)`` float32 sums of the unit embeddings of each group's texts.
        counts: ``(G,)`` int64 numbers of texts.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, groups: Sequence[int], count: int) -> TextSums:
        """Of unit rows ``(N, D)``, each in one of ``count`` groups."""
        ids = torch.as_tensor(groups, dtype=torch.long, device=embeddings.device)
        sums = embeddings.new_zeros(count, embeddings.shape[1]).index_add_(0, ids, embeddings)
        return cls(sums, torch.bincount(ids, minlength=count))

    def filled(self, templates: Tensor) -> TextSums:
        """Groups without texts get their template, unit rows ``(G, D)``, as their only one."""
        empty = self.counts == 0
        return TextSums(torch.where(empty.unsqueeze(1), templates, self.sums), self.counts.clamp(min=1))

    def vectors(self, average: Average = "embeddings") -> Tensor:
        """``(G, D)`` vectors."""
        return normalize(self.sums, dim=1) if average == "embeddings" else self.sums / self.counts.unsqueeze(1)


def class_vectors(templates: Tensor, texts: Tensor, class_ids: Sequence[int]) -> Tensor:
    """Unit rows ``(C, D)``: the normalised mean of each class's text embeddings, its template's where it has no texts.

    Args:
        templates: Unit rows ``(C, D)``.
        texts: Unit rows ``(N, D)``.
        class_ids: Class of each text.
    """
    return TextSums.of(texts, class_ids, len(templates)).filled(templates).vectors()


# ---------------------------------------------------------------- predictions


@dataclass(frozen=True, eq=False)
class Predictions:
    """The most likely classes of N images, best first.

    Attributes:
        class_ids: ``(N, T)`` int64.
        scores: ``(N, T)`` float32.
    """

    class_ids: Tensor
    scores: Tensor

    def first(self, top: int) -> Predictions:
        """The ``top`` most likely classes only."""
        return Predictions(self.class_ids[:, :top], self.scores[:, :top])

    def correct(self, labels: Tensor, top: int = 1) -> Tensor:
        """``(N,)`` bool: whether an image's class is among the ``top`` most likely."""
        return (self.class_ids[:, :top] == labels.unsqueeze(1)).any(dim=1)


def ranked(similarities: Tensor, top: int) -> Predictions:
    """The ``top`` (at most C) classes of each row ``(N, C)`` of float32; of equal ones the lower class id goes first."""
    classes = similarities.shape[1]
    # Neither topk nor argmax promise an order of equal values, and a stable sort of all classes takes three times as long:
    # one integer holds both, the similarity's bits in an order that integers share, and the class id.
    bits = (similarities + 0.0).view(torch.int32)  # + 0.0: -0 equals 0, but its bits do not
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = order.long() * classes + torch.arange(classes - 1, -1, -1, device=similarities.device)
    ids = classes - 1 - keys.topk(min(top, classes), dim=1).values % classes
    return Predictions(ids, similarities.gather(1, ids))


@torch.no_grad()
def predict(vectors: Tensor, images: Tensor, top: int = TOP) -> Predictions:
    """Rank classes by the dot product of their vectors ``(C, D)`` with images, unit rows ``(N, D)``, block by block."""
    parts = [ranked(part @ vectors.T, top) for part in images.split(max(1, _BLOCK // len(vectors)))]
    return Predictions(torch.cat([part.class_ids for part in parts]), torch.cat([part.scores for part in parts]))


@torch.no_grad()
def mean_nll(vectors: Tensor, images: Tensor, labels: Tensor, logit_scale: float) -> float:
    """Mean negative log-likelihood of the right classes, nats an image: finer than accuracy, where images are few.

    Args:
        vectors: ``(C, D)``.
        images: Unit rows ``(N, D)``.
        labels: Class ids ``(N,)``.
        logit_scale: The VLM's own multiplier of similarities, before the softmax over classes.
    """
    size = max(1, _BLOCK // len(vectors))
    parts = [
        cross_entropy(logit_scale * (part @ vectors.T), own, reduction="sum")
        for part, own in zip(images.split(size), labels.split(size), strict=True)
    ]
    return float(torch.stack(parts).sum()) / len(labels)


def beside_name(names: Tensor, texts: Tensor, weight: float) -> Tensor:
    """Unit rows ``(C, D)``: the vector of each class's name plus ``weight`` times that of its texts."""
    return normalize(names + weight * texts, dim=1)


def choose_weight(names: Tensor, texts: Tensor, images: Tensor, labels: Tensor, logit_scale: float) -> float:
    """The weight of texts beside names with the lowest `mean_nll` on these images; the smallest of equally good ones.

    They must not be the images that the texts are then judged by.
    """
    return min(WEIGHTS, key=lambda weight: mean_nll(beside_name(names, texts, weight), images, labels, logit_scale))


def images_of(bank: ImageBank, split: str) -> tuple[Tensor, Tensor]:
    """Unit embeddings ``(N, D)`` and class ids ``(N,)`` of a split's images, on the bank's device.

    Raises:
        UserError: The split has no images.
    """
    rows = bank.rows(split)
    if not len(rows):
        raise UserError(f"split {split!r}: {bank.dataset} has no such images; use heldout or reward.")
    return bank.embeddings[rows].to(bank.device), bank.labels[rows].to(bank.device)


# ---------------------------------------------------------------- accuracies


def share_by_class(values: Tensor, labels: Tensor, classes: int) -> NDArray[np.float64]:
    """Share of true ``values`` ``(N,)`` in each class, ``(C,)``; NaN for classes without images."""
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, dtype=torch.double, device=labels.device).index_add_(0, labels, values.double())
    return (sums / counts).cpu().numpy()


def zero_shot_by_class(vectors: Tensor, images: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Share of each class's images that are nearest to their own class's vector, ``(C,)``.

    Args:
        vectors: ``(C, D)``.
        images: Unit rows ``(N, D)``.
        labels: Class ids ``(N,)``.
    """
    return share_by_class(predict(vectors, images, top=1).correct(labels), labels, len(vectors))


@dataclass(frozen=True)
class Accuracy:
    """How well one system classifies N images, and how it compares with the template.

    Attributes:
        system: Its name.
        n: N.
        classes: Classes that have images.
        top1: Share of images whose class is the most likely one.
        top5: Share of images whose class is among the five most likely.
        per_class: Mean over classes of their top-1 accuracy, with its interval over classes.
        gain: The same minus the template's, paired by class.
        fixed: Images that the template gets wrong and the system right.
        broken: Images that the template gets right and the system wrong.
    """

    system: str
    n: int
    classes: int
    top1: float
    top5: float
    per_class: Interval
    gain: Interval
    fixed: int
    broken: int

    def row(self) -> dict[str, Any]:
        """One flat row of the table of results."""
        intervals = {
            f"{name}_{end}": value
            for name, interval in (("per_class", self.per_class), ("gain", self.gain))
            for end, value in interval.as_dict().items()
        }
        counts = {"fixed": self.fixed, "broken": self.broken, "n": self.n, "classes": self.classes}
        return {"system": self.system, "top1": self.top1, "top5": self.top5, **intervals, **counts}


def evaluate(system: str, predictions: Predictions, template: Predictions, labels: Tensor) -> Accuracy:
    """Accuracy of a system's predictions beside the template's, on the same N images with class ids ``(N,)``.

    Raises:
        UserError: Fewer than two classes have images, so that there is no interval.
    """
    right, before = predictions.correct(labels), template.correct(labels)
    clusters = labels.cpu().numpy()
    values, values_before = right.double().cpu().numpy(), before.double().cpu().numpy()
    return Accuracy(
        system=system,
        n=len(labels),
        classes=len(labels.unique()),
        top1=float(right.double().mean()),
        top5=float(predictions.correct(labels, top=TOP).double().mean()),
        per_class=cluster_interval(values, clusters, bounds=SHARE),
        gain=paired_difference(values, clusters, values_before, clusters, bounds=DIFFERENCE),
        fixed=int((right & ~before).sum()),
        broken=int((before & ~right).sum()),
    )
