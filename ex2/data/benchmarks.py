"""Twelve benchmark sets, read from the folders that their archives unpack to. Nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.data import layouts
from ex2.data.labelled import ImageFile, LabelledImages, images_of_files
from ex2.data.layouts import Entry, Listing, NotAsExpected


@dataclass(frozen=True)
class Benchmark:
    """A set's one-line description, and how to find and read it.

    Attributes:
        about: The set and its splits.
        layout: What DIR holds, for the reader of an error.
        needs: Files and folders without which it is not the set.
        read: Lists the set, given the folder with these files.
        folders: Sub-folders of DIR that may be that folder, for those who give the folder of all their sets.
    """

    about: str
    layout: str
    needs: tuple[str, ...]
    read: Callable[[Path], Listing]
    folders: tuple[str, ...] = ()


def load_benchmark(scheme: str, directory: str) -> LabelledImages:
    """The set ``SCHEME:DIRECTORY``, such as ``cub:/data/CUB_200_2011``; ids are paths below the set's folder.

    Raises:
        UserError: the folder or one of its files is missing, or a file does not say what it should.
    """
    spec, benchmark = f"{scheme}:{directory}", BENCHMARKS[scheme]
    try:
        root = _locate(benchmark, directory)
        classes, entries = benchmark.read(root)
        files = _labelled(classes, entries)
    except NotAsExpected as difference:
        raise UserError(f"dataset '{spec}': {difference}; expected {benchmark.layout}.") from difference
    return images_of_files(spec, root, tuple(classes.values()), files)


def _locate(benchmark: Benchmark, directory: str) -> Path:
    if not directory:
        raise NotAsExpected("no folder named after the colon")
    given = from_home(directory)
    if not given.is_dir():
        raise NotAsExpected(f"{given} {'is not a folder' if given.exists() else 'does not exist'}")
    lacks = {
        root: [need for need in benchmark.needs if not (root / need).exists()]
        for root in (given, *(given / folder for folder in benchmark.folders))
    }
    nearest = min(lacks, key=lambda root: len(lacks[root]))  # the first of equals: DIR itself
    if lacks[nearest]:
        raise NotAsExpected(f"{nearest} lacks {', '.join(lacks[nearest])}")
    return nearest


def _labelled(classes: Iterable[str], entries: Iterable[Entry]) -> list[ImageFile]:
    label_of = {key: label for label, key in enumerate(classes)}
    files = []
    for entry in entries:
        if entry.key not in label_of:
            raise NotAsExpected(f"{entry.path} is of class {entry.key!r}, which the set's list of classes lacks")
        files.append(ImageFile(entry.path, label_of[entry.key], entry.split))
    return files


_NAMES_LAYOUT = f"with a list of class names there or one folder up ({', '.join(layouts.NAME_FILES)})"

BENCHMARKS = {
    "cub": Benchmark(
        "CUB-200-2011: 200 birds, official splits",
        "DIR/images/001.Black_footed_Albatross/*.jpg, DIR/images.txt, classes.txt, image_class_labels.txt and "
        "train_test_split.txt",
        ("images", "images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"),
        layouts.read_cub,
        ("CUB_200_2011",),
    ),
    "aircraft": Benchmark(
        "FGVC Aircraft: 100 variants, official splits",
        "DIR/data/images/*.jpg, DIR/data/variants.txt and images_variant_train.txt, _val.txt and _test.txt",
        ("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test"))),
        layouts.read_aircraft,
        ("data", "fgvc-aircraft-2013b/data"),
    ),
    "flowers": Benchmark(
        "Flowers-102: 102 flowers, official splits",
        "DIR/jpg/image_00001.jpg ..., DIR/imagelabels.mat and DIR/setid.mat",
        ("jpg", "imagelabels.mat", "setid.mat"),
        layouts.read_flowers,
        ("flowers-102",),
    ),
    "pets": Benchmark(
        "Oxford-IIIT Pets: 37 breeds of cats and dogs, official splits",
        "DIR/images/Abyssinian_1.jpg ..., DIR/annotations/trainval.txt and test.txt",
        ("images", "annotations/trainval.txt", "annotations/test.txt"),
        layouts.read_pets,
        ("oxford-iiit-pet",),
    ),
    "cars": Benchmark(
        "Stanford Cars: 196 models, official splits",
        "DIR/cars_train/*.jpg, DIR/cars_test/*.jpg, DIR/devkit/cars_meta.mat and cars_train_annos.mat, "
        "DIR/cars_test_annos_withlabels.mat",
        (
            "cars_train", "cars_test", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat",
            "cars_test_annos_withlabels.mat",
        ),
        layouts.read_cars,
        ("stanford_cars",),
    ),
    "dogs": Benchmark(
        "Stanford Dogs: 120 breeds, official splits",
        "DIR/Images/n02085620-Chihuahua/*.jpg, DIR/train_list.mat and DIR/test_list.mat",
        ("Images", "train_list.mat", "test_list.mat"),
        layouts.read_dogs,
        ("stanford_dogs",),
    ),
    "dtd": Benchmark(
        "DTD: 47 textures, official splits (the first of ten)",
        "DIR/images/banded/*.jpg, DIR/labels/train1.txt, val1.txt and test1.txt",
        ("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
        layouts.read_dtd,
        ("dtd", "dtd/dtd"),
    ),
    "eurosat": Benchmark(
        "EuroSAT in RGB: 10 kinds of land, no splits",
        "DIR/AnnualCrop/*.jpg and nine more class folders",
        ("AnnualCrop",),
        layouts.read_eurosat,
        ("2750", "eurosat/2750", "EuroSAT_RGB"),
    ),
    "food101": Benchmark(
        "Food-101: 101 dishes, official splits",
        "DIR/images/apple_pie/*.jpg, DIR/meta/train.txt and test.txt",
        ("images", "meta/train.txt", "meta/test.txt"),
        layouts.read_food101,
        ("food-101",),
    ),
    "imagenet": Benchmark(
        "ImageNet: 1000 classes, train for the reward and val held out; needs a list of class names",
        f"DIR/train/n01440764/*.JPEG, DIR/val/n01440764/*.JPEG or one of the two, {_NAMES_LAYOUT}",
        (),
        layouts.read_imagenet,
    ),
    "imagenetv2": Benchmark(
        "ImageNetV2: 1000 classes of 10 images, no splits; needs a list of class names",
        f"DIR/0/*.jpeg ... DIR/999/*.jpeg, {_NAMES_LAYOUT}",
        ("0",),
        layouts.read_imagenetv2,
        ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    ),
    "places365": Benchmark(
        "Places365: 365 scenes, train-standard for the reward and val held out",
        "DIR/categories_places365.txt, DIR/data_256/a/airfield/*.jpg with places365_train_standard.txt, "
        "DIR/val_256/*.jpg with places365_val.txt (or one of the two; large images in data_large and val_large)",
        ("categories_places365.txt",),
        layouts.read_places365,
    ),
}  # fmt: skip
