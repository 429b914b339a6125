"""Published zero-shot accuracies, to check an installation against: the right weights, preprocessing, class names and images.

All are top-1 accuracies in percent on official test images, with the one template "a photo of a {}", or with FuDD and its
published sentences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from PIL import Image

from ex2.base.errors import UserError
from ex2.data.labelled import LabelledImages, fingerprint_of

_FUDD = "Esfandiarpoor and Bach, ICLR 2024"
_USUAL = "usual values for OpenAI's weights"


@dataclass(frozen=True)
class Golden:
    """What is published for one VLM on one dataset.

    Attributes:
        vlm: The VLM's published name.
        dataset: The dataset, as specs of datasets begin (``cub:DIR``).
        n: Test images; None where sources differ in which they use.
        template: Lowest and highest published accuracy of one template.
        fudd: Accuracy of FuDD, where it is published.
        k: Its candidates.
        source: Where the numbers come from.
    """

    vlm: str
    dataset: str
    n: int | None
    template: tuple[float, float]
    fudd: float | None = None
    k: int = 10
    source: str = _FUDD


GOLDENS: tuple[Golden, ...] = (
    Golden("ViT-L/14@336px", "cub", 5_794, (63.36, 63.36), 65.74),
    Golden("ViT-B/32", "imagenet", 50_000, (61.9, 61.9), 64.2),
    Golden("ViT-B/32", "cub", 5_794, (51.3, 51.7), 54.3),
    Golden("ViT-B/32", "flowers", 6_149, (62.8, 63.0), 67.6),
    Golden("ViT-B/32", "eurosat", None, (40.9, 40.9), 45.2),
    Golden("ViT-B/32", "dtd", 1_880, (43.1, 43.1), 44.8),
    Golden("ViT-B/32", "pets", 3_669, (85.0, 85.1), source=_USUAL),
    Golden("ViT-B/32", "aircraft", 3_333, (25.0, 25.0), source=_USUAL),
    Golden("ViT-B/32", "cars", 8_041, (58.6, 58.6), source=_USUAL),
    Golden("ViT-B/32", "food101", 25_250, (82.6, 82.6), source=_USUAL),
)

_NAME_OF_SPEC = {
    "hf:openai/clip-vit-base-patch32": "ViT-B/32",
    "open_clip:ViT-B-32/openai": "ViT-B/32",
    "open_clip:ViT-B-32-quickgelu/openai": "ViT-B/32",
    "hf:openai/clip-vit-large-patch14-336": "ViT-L/14@336px",
    "open_clip:ViT-L-14-336/openai": "ViT-L/14@336px",
    "open_clip:ViT-L-14-336-quickgelu/openai": "ViT-L/14@336px",
}


def find_golden(vlm: str, dataset: str, *, as_vlm: str | None = None, as_dataset: str | None = None) -> Golden:
    """What is published for a VLM on a dataset.

    Args:
        vlm: Spec of the VLM.
        dataset: Spec of the dataset.
        as_vlm: Published name of the VLM, where its spec (a folder) does not tell.
        as_dataset: Name of the dataset, where its spec (``folder:DIR``) does not tell.

    Raises:
        UserError: Nothing is known for the two.
    """
    vlm_name = as_vlm or _NAME_OF_SPEC.get(vlm, vlm)
    dataset_name = as_dataset or dataset.partition(":")[0]
    for golden in GOLDENS:
        if (golden.vlm, golden.dataset) == (vlm_name, dataset_name):
            return golden
    datasets: dict[str, list[str]] = {}
    for golden in GOLDENS:
        datasets.setdefault(golden.vlm, []).append(golden.dataset)
    known = "; ".join(f"{name} on {', '.join(own)}" for name, own in datasets.items())
    raise UserError(
        f"no published numbers for --vlm {vlm_name} on --dataset {dataset_name}; known: {known}. "
        "Say which of them local files are with --as_vlm and --as_dataset."
    )


@dataclass(frozen=True)
class _Subset:
    """Opens image i of some of a set's images."""

    images: LabelledImages
    positions: tuple[int, ...]

    def __call__(self, i: int) -> Image.Image:
        return self.images.loader(self.positions[i])


def official_images(images: LabelledImages) -> LabelledImages:
    """The set's held-out images, which are the official test images of sets with splits; all images of sets without."""
    if images.splits is None:
        return images
    positions = tuple(i for i, split in enumerate(images.splits) if split == "heldout")
    return replace(
        images,
        labels=tuple(images.labels[i] for i in positions),
        image_ids=tuple(images.image_ids[i] for i in positions),
        splits=None,
        fingerprint=fingerprint_of([images.fingerprint, "heldout"]),
        loader=_Subset(images, positions),
        attributes={name: tuple(column[i] for i in positions) for name, column in images.attributes.items()},
    )


class Check(NamedTuple):
    """One published number beside the measured one; ``ok`` is None where nothing was measured."""

    quantity: str
    published: str
    measured: str
    ok: bool | None


def check(golden: Golden, n: int, template: float, fudd: float | None, tolerance: float) -> list[Check]:
    """Compare measurements with what is published.

    Args:
        golden: What is published.
        n: Images.
        template: Accuracy of one template in percent.
        fudd: Accuracy of FuDD in percent; None: not measured.
        tolerance: Points of percent that a number may lie outside what is published.
    """
    low, high = golden.template
    published = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    # 51.8 - 51.3 is a little more than 0.5 in binary.
    slack = tolerance + 1e-9
    checks = [Check("one template", published, f"{template:.2f}", low - slack <= template <= high + slack)]
    if golden.n is not None:
        checks.insert(0, Check("images", f"{golden.n}", f"{n}", n == golden.n))
    if golden.fudd is not None:
        measured = "needs --pairs" if fudd is None else f"{fudd:.2f}"
        ok = None if fudd is None else abs(fudd - golden.fudd) <= slack
        checks.append(Check(f"FuDD, K = {golden.k}", f"{golden.fudd:.2f}", measured, ok))
    return checks
