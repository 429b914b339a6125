"""Step ``features``: trunk features of all images, of augmented views, and of composite pictures with their captions.

The trunk is frozen from here on, so each picture goes through it once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tools.build_pictograms.augment import augment, prepare
from tools.build_pictograms.common import FAMILY_BY_NAME, IMAGE_SIZE, Split, Work, families_of
from tools.build_pictograms.compose import Composite, Drawing, compose
from tools.build_pictograms.dataset import Dataset
from tools.build_pictograms.descriptions import Description, read_descriptions
from tools.build_pictograms.model import Tower, new_tower

# Augmented views of each training image, of described classes and of others.
VIEWS, OTHER_VIEWS = 4, 1
COMPOSITES: dict[Split, int] = {"train": 3000, "validation": 500, "test": 500}
BATCH = 64


def described_classes(dataset: Dataset) -> dict[int, Description]:
    """Return the descriptions by class number."""
    table = read_descriptions()
    numbers = dataset.class_numbers(tuple(table))
    return dict(zip(numbers, table.values(), strict=True))


Trunk = Callable[[torch.Tensor], torch.Tensor]


def fast_trunk(tower: Tower) -> Trunk:
    """Return the frozen trunk as a graph with the normalisation folded into the convolutions."""
    example = prepare(torch.zeros(2, 4, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8))
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(tower.trunk, example))


@torch.no_grad()
def plain_features(trunk: Trunk, images: torch.Tensor) -> torch.Tensor:
    """Return the features of uint8 RGBA images as they are, in half precision."""
    return torch.cat([trunk(prepare(part)).half() for part in images.split(BATCH)])


@torch.no_grad()
def view_features(trunk: Trunk, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the features of one augmented view of each image, in half precision."""
    return torch.cat([trunk(augment(part, generator)).half() for part in images.split(BATCH)])


def composite_rows(dataset: Dataset, split: Split, described: dict[int, Description]) -> list[int]:
    """Return the images to compose with: described classes in training, embedded classes else."""
    classes = list(described) if split == "train" else dataset.embedded
    return dataset.rows(tuple(family.name for family in families_of(split)), classes).tolist()


def composites(
    dataset: Dataset, split: Split, described: dict[int, Description], rng: random.Random
) -> list[Composite]:
    """Compose the pictures of one split."""
    rows = composite_rows(dataset, split, described)
    names = [dataset.names[number] for number in described]

    def drawing(row: int) -> Drawing:
        label = int(dataset.labels[row])
        pixels = np.ascontiguousarray(dataset.images[row].permute(1, 2, 0).numpy())
        kind = rng.choice(described[label].kinds)
        return Drawing(pixels, dataset.names[label], kind, FAMILY_BY_NAME[dataset.families[row]].monochrome)

    made: list[Composite] = []
    while len(made) < COMPOSITES[split]:
        first, second = drawing(rng.choice(rows)), drawing(rng.choice(rows))
        absent = rng.choice([name for name in rng.sample(names, 3) if name not in (first.name, second.name)])
        item = compose(first, second, absent, rng) if first.name != second.name else None
        if item is not None:
            made.append(item)
    return made


def composite_block(trunk: Trunk, items: list[Composite]) -> dict[str, Any]:
    """Return the features and captions of composites."""
    pixels = torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2)
    captions = [{"what": item.what, "true": item.true, "false": item.false} for item in items]
    return {"features": plain_features(trunk, pixels), "items": captions}


def build_features(work: Work, seed: int) -> None:
    """Write the features of everything that the head is trained and chosen on."""
    dataset = Dataset.load(work)
    trunk = fast_trunk(new_tower(torch.load(work.final)["visual"]))
    described = described_classes(dataset)
    train = dataset.split_rows("train")
    generator = torch.Generator().manual_seed(seed + 3)
    features, images = [plain_features(trunk, dataset.images)], [torch.arange(len(dataset.labels))]
    print(f"features of {len(dataset.labels)} images", flush=True)
    told = torch.isin(dataset.labels[train], torch.tensor(list(described)))
    for view in range(VIEWS):
        rows = train if view < OTHER_VIEWS else train[told]
        features.append(view_features(trunk, dataset.images[rows], generator))
        images.append(rows)
        print(f"view {view + 1}: features of {len(rows)} images", flush=True)
    blocks = {}
    for number, split in enumerate(COMPOSITES):
        items = composites(dataset, split, described, random.Random(seed + number))
        blocks[split] = composite_block(trunk, items)
        print(f"{split}: features of {len(items)} composites", flush=True)
    torch.save({"features": torch.cat(features), "images": torch.cat(images), "composites": blocks}, work.features)
