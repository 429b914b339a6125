"""Caption sampling and the two contrastive losses of the image tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from tools.build_pictograms.captions import CAPTION_WEIGHTS, caption_weights

MAX_SCALE = 100.0


def shared_targets(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return target probabilities: each row spreads one evenly over the columns with the same text number."""
    same = (rows[:, None] == columns[None, :]).float()
    return same / same.sum(1, keepdim=True)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of rows of logits against rows of target probabilities."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(1).mean()


def class_loss(
    images: torch.Tensor, texts: torch.Tensor, numbers: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return the loss of images against one caption of every class.

    ``texts`` and ``numbers`` are the embeddings and numbers of the captions, ``labels`` the classes of the images.
    """
    return cross_entropy(scale * images @ texts.T, shared_targets(numbers[labels], numbers))


def pair_loss(images: torch.Tensor, texts: torch.Tensor, numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric loss of images against their own captions within the batch."""
    logits = scale * images @ texts.T
    targets = shared_targets(numbers, numbers)
    return 0.5 * (cross_entropy(logits, targets) + cross_entropy(logits.T, targets))


def margin_loss(higher: torch.Tensor, lower: torch.Tensor, scale: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Return the loss of cosines that shall lie above others by a margin."""
    return F.softplus(-scale * (higher - lower - margin)).mean()


class CaptionLoss:
    """Samples captions and returns the training loss of image embeddings."""

    def __init__(
        self,
        captions: Mapping[str, Any],
        labels: torch.Tensor,
        image_weight: float,
        shares: Mapping[str, float] = CAPTION_WEIGHTS,
    ) -> None:
        """Lay out the captions of all trainable classes and all training images as padded tables."""
        self.embeddings: torch.Tensor = captions["embeddings"]
        self.image_weight = image_weight
        trainable = [number for number, entries in enumerate(captions["classes"]) if entries]
        width = max(len(captions["classes"][number]) for number in trainable)
        self.class_texts = torch.zeros(len(trainable), width, dtype=torch.long)
        self.class_weights = torch.zeros(len(trainable), width)
        for row, number in enumerate(trainable):
            entries = captions["classes"][number]
            self.class_texts[row, : len(entries)] = torch.tensor([text for _, text in entries])
            self.class_weights[row, : len(entries)] = torch.tensor(caption_weights(entries, shares))
        row_of_class = torch.full((len(captions["classes"]),), -1)
        row_of_class[torch.tensor(trainable)] = torch.arange(len(trainable))
        self.row_of_image = row_of_class[labels]
        longest = max(map(len, captions["images"].values()))
        self.image_texts = torch.zeros(len(labels), longest, dtype=torch.long)
        self.image_counts = torch.zeros(len(labels), dtype=torch.long)
        for image, texts in captions["images"].items():
            self.image_texts[image, : len(texts)] = torch.tensor(texts, dtype=torch.long)
            self.image_counts[image] = len(texts)

    def __call__(
        self, embeddings: torch.Tensor, images: torch.Tensor, log_scale: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, float, float]:
        """Return the loss of the unit embeddings of some images, with its class part and its pair part."""
        scale = log_scale.exp().clamp(max=MAX_SCALE)
        choice = torch.multinomial(self.class_weights, 1, generator=generator)
        numbers = self.class_texts.gather(1, choice)[:, 0]
        first = class_loss(embeddings, self.embeddings[numbers], numbers, self.row_of_image[images], scale)
        counts = self.image_counts[images]
        column = (torch.rand(len(images), generator=generator) * counts).long()
        own = self.image_texts[images, column]
        kept = counts > 0
        second = pair_loss(embeddings[kept], self.embeddings[own[kept]], own[kept], scale)
        return first + self.image_weight * second, first.item(), second.item()
