"""Which images of a set are used, and for what: reward images and held-out images, drawn by seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ex2.base.errors import UserError
from ex2.base.shown import some_of
from ex2.data.labelled import SPLITS, LabelledImages


class Choice(NamedTuple):
    """One chosen image: its position in the image set, and its id, class id and split."""

    position: int
    image_id: str
    label: int
    split: str


def choose_images(
    images: LabelledImages, heldout_fraction: float, seed: int, max_images_per_class: int
) -> list[Choice]:
    """The images a bank is made of, grouped by class and sorted by id within it.

    Each class's images are put in the order of SHA-256("SEED:ID"), so neither the order of files nor other images
    matter. The first ``round(heldout_fraction * n)`` are held out and the others are reward images, unless the set
    has splits of its own. Of each split the first ``max_images_per_class`` in that order are kept.

    Raises:
        UserError: an option is out of range, or a class has no reward or no held-out image.
    """
    if not 0 < heldout_fraction < 1:
        raise UserError(f"heldout_fraction: {heldout_fraction} is not between 0 and 1; 0.5 holds out half the images.")
    if max_images_per_class < 1:
        raise UserError(f"max_images_per_class: {max_images_per_class} leaves no images; give 1 or more.")
    members: list[list[int]] = [[] for _ in images.class_names]
    for position, label in enumerate(images.labels):
        members[label].append(position)

    def drawn(position: int) -> bytes:
        return hashlib.sha256(f"{seed}:{images.image_ids[position]}".encode(errors="surrogatepass")).digest()

    chosen: list[Choice] = []
    for label, class_name in enumerate(images.class_names):
        order = sorted(members[label], key=drawn)
        by_split: dict[str, list[int]] = {split: [] for split in SPLITS}
        if images.splits is not None:
            for position in order:
                by_split[images.splits[position]].append(position)
        elif len(order) < 2:
            raise UserError(
                f"dataset {images.name}: class {class_name!r} has {len(order)} image(s); at least 2 are needed, one to "
                "reward with and one to hold out."
            )
        else:
            heldout = min(max(round(heldout_fraction * len(order)), 1), len(order) - 1)
            by_split.update(heldout=order[:heldout], reward=order[heldout:])
        choices = [
            Choice(position, images.image_ids[position], label, split)
            for split in SPLITS
            for position in by_split[split][:max_images_per_class]
        ]
        chosen += sorted(choices, key=lambda choice: choice.image_id)
    check_classes(images, chosen, [])
    return chosen


def check_classes(images: LabelledImages, kept: Sequence[Choice], lost: Sequence[Choice]) -> None:
    """Raise UserError if a class has no reward or no held-out image among the ``kept``; ``lost`` could not be read."""
    counts = Counter((choice.label, choice.split) for choice in kept)
    for label, class_name in enumerate(images.class_names):
        for split in ("reward", "heldout"):
            if not counts[label, split]:
                files = [choice.image_id for choice in lost if choice.label == label]
                cure = f"Replace or delete its broken files: {some_of(files)}." if files else "Every class needs some."
                raise UserError(f"dataset {images.name}: class {class_name!r} has no {split} images. {cure}")
