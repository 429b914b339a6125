"""The rasterised images with their classes and splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tools.build_pictograms.common import (
    EMBEDDED_CLASSES,
    FAMILIES,
    UNSEEN_CLASSES,
    Split,
    Work,
    families_of,
)
from tools.build_pictograms.rasterise import read_json


@dataclass(frozen=True)
class Dataset:
    """Images (N, 4, 96, 96), their families and class numbers, and the class table."""

    images: torch.Tensor
    families: np.ndarray
    labels: torch.Tensor
    classes: list[dict[str, Any]]

    @classmethod
    def load(cls, work: Work) -> Dataset:
        """Read what the step ``rasterise`` wrote."""
        index = read_json(work.index)
        pixels = torch.from_numpy(np.load(work.images)).permute(0, 3, 1, 2)
        families = np.array([family for family, _ in index["images"]])
        unknown = set(families) - {family.name for family in FAMILIES}
        if unknown:
            raise ValueError(f"unknown design families in {work.index}: {sorted(unknown)}")
        return cls(pixels, families, torch.tensor([label for _, label in index["images"]]), index["classes"])

    @property
    def names(self) -> list[str]:
        """Class names in class order."""
        return [entry["name"] for entry in self.classes]

    def class_numbers(self, names: tuple[str, ...]) -> list[int]:
        """Return the class numbers of some class names."""
        table = {name: number for number, name in reversed(list(enumerate(self.names)))}
        return [table[name] for name in names]

    @property
    def embedded(self) -> list[int]:
        """Numbers of the embedded classes."""
        return self.class_numbers(EMBEDDED_CLASSES)

    @property
    def unseen(self) -> list[int]:
        """Numbers of the classes that training never sees."""
        return self.class_numbers(UNSEEN_CLASSES)

    def rows(
        self, families: tuple[str, ...], classes: list[int] | None = None, without: list[int] | None = None
    ) -> torch.Tensor:
        """Return the image numbers of some families, only of and without some classes."""
        keep = np.isin(self.families, families)
        if classes is not None:
            keep &= np.isin(self.labels.numpy(), classes)
        if without is not None:
            keep &= ~np.isin(self.labels.numpy(), without)
        return torch.from_numpy(np.flatnonzero(keep))

    def split_rows(self, split: Split) -> torch.Tensor:
        """Return the image numbers of a split, without the unseen classes."""
        return self.rows(tuple(family.name for family in families_of(split)), without=self.unseen)
