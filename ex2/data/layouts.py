"""Readers of benchmark sets' own files: what each class is called, and which images it has in which split.

Each reader gives two things: the classes, as a dict from the key that the set's files use (a number, a folder, a name) to
the readable name, in the set's order; and one entry per image, with the class's key. So images are bound to classes by
key, never by position. The official training split gives reward images, the test split held-out images; sets without
public test labels are tested on their validation images, as everyone does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ex2.base.errors import UserError
from ex2.base.files import parse_json, text_lines
from ex2.data import names
from ex2.data.labelled import is_image, say_what_is_left_out

if TYPE_CHECKING:
    import numpy as np

# Where ImageNet's class names may be; its folders have only WordNet ids.
NAME_FILES = ("classnames.txt", "LOC_synset_mapping.txt", "imagenet_class_index.json", "meta.bin")


class Entry(NamedTuple):
    """An image file: its path below the set's folder, the key of its class, its split."""

    path: str
    key: str
    split: str | None = None


Listing: TypeAlias = tuple[dict[str, str], Iterable[Entry]]


class NotAsExpected(Exception):
    """What about a set's folder differs from its layout; becomes a UserError that shows the layout."""


# ---------------------------------------------------------------- the paper's six


def read_cub(root: Path) -> Listing:
    class_of, in_train = dict(_pairs(root / "image_class_labels.txt")), dict(_pairs(root / "train_test_split.txt"))
    images = dict(_pairs(root / "images.txt"))
    for path, numbers in (("image_class_labels.txt", class_of), ("train_test_split.txt", in_train)):
        if numbers.keys() != images.keys():
            raise NotAsExpected(f"{root / path} does not number the same images as images.txt")
    entries = (
        Entry(f"images/{file}", class_of[number], "reward" if in_train[number] == "1" else "heldout")
        for number, file in images.items()
    )
    return {key: names.cub_name(label) for key, label in _pairs(root / "classes.txt")}, entries


def read_aircraft(root: Path) -> Listing:
    entries = (
        Entry(f"images/{image}.jpg", variant, split)
        for part, split in (("train", "reward"), ("val", "validation"), ("test", "heldout"))
        for image, variant in _pairs(root / f"images_variant_{part}.txt")
    )
    variants = _lines(root / "variants.txt")
    return {key: names.with_noun(names.class_name_of(key), "aircraft") for key in variants}, entries


def read_flowers(root: Path) -> Listing:
    labels = _matlab(root / "imagelabels.mat", "labels")
    numbers = [
        (int(number), split)
        for part, split in (("trnid", "reward"), ("valid", "validation"), ("tstid", "heldout"))
        for number in _matlab(root / "setid.mat", part)
    ]
    if any(not 1 <= number <= len(labels) for number, _ in numbers):
        raise NotAsExpected(
            f"{root / 'setid.mat'} has numbers outside 1 ... {len(labels)}, the images in imagelabels.mat"
        )
    classes = {str(label): name for label, name in enumerate(names.FLOWERS, start=1)}
    return classes, (Entry(f"jpg/image_{i:05d}.jpg", str(labels[i - 1]), split) for i, split in numbers)


def read_pets(root: Path) -> Listing:
    entries = [
        Entry(f"images/{image}.jpg", image.rpartition("_")[0], split)
        for part, split in (("trainval", "reward"), ("test", "heldout"))
        for image, _ in _pairs(root / "annotations" / f"{part}.txt")
    ]
    return _named(entries, names.pet_name), entries


def read_cars(root: Path) -> Listing:
    classes = _matlab(root / "devkit" / "cars_meta.mat", "class_names")
    entries = (
        Entry(f"{folder}/{annotation['fname']}", str(annotation["class"]), split)
        for folder, path, split in (
            ("cars_train", root / "devkit" / "cars_train_annos.mat", "reward"),
            ("cars_test", root / "cars_test_annos_withlabels.mat", "heldout"),
        )
        for annotation in _matlab(path, "annotations", fields=("fname", "class"))
    )
    return {str(number): names.class_name_of(str(name)) for number, name in enumerate(classes, start=1)}, entries


def read_dogs(root: Path) -> Listing:
    entries = [
        Entry(f"Images/{file}", str(file).partition("/")[0], split)
        for part, split in (("train_list.mat", "reward"), ("test_list.mat", "heldout"))
        for file in _matlab(root / part, "file_list")
    ]
    return _named(entries, names.dog_name), entries


# ---------------------------------------------------------------- six more


def read_dtd(root: Path) -> Listing:
    entries = [
        Entry(f"images/{file}", file.partition("/")[0], split)
        for part, split in (("train1", "reward"), ("val1", "validation"), ("test1", "heldout"))
        for file in _lines(root / "labels" / f"{part}.txt")
    ]
    return _named(entries, names.class_name_of), entries


def read_eurosat(root: Path) -> Listing:
    return {key: names.eurosat_name(key) for key in _folders(root)}, _images_by_folder(root, "")


def read_food101(root: Path) -> Listing:
    entries = [
        Entry(f"images/{image}.jpg", image.partition("/")[0], split)
        for part, split in (("train", "reward"), ("test", "heldout"))
        for image in _lines(root / "meta" / f"{part}.txt")
    ]
    return _named(entries, names.class_name_of), entries


def read_imagenet(root: Path) -> Listing:
    parts = {part: split for part, split in (("train", "reward"), ("val", "heldout")) if (root / part).is_dir()}
    if not parts:
        raise NotAsExpected(f"{root} has neither train nor val")
    name_of = _synset_names(root)
    folders = {part: _folders(root / part) for part in parts}
    for part in parts:
        if not folders[part]:
            raise NotAsExpected(f"{root / part} has no class folders")
    entries = (entry for part, split in parts.items() for entry in _images_by_folder(root, part, split))
    present = set().union(*folders.values())
    return {wnid: name_of[wnid] for wnid in sorted(name_of) if wnid in present}, entries


def read_imagenetv2(root: Path) -> Listing:
    name_of = _synset_names(root)
    if len(name_of) != 1000:
        raise NotAsExpected(f"the list of class names beside {root} has {len(name_of)} classes and not all 1000")
    # A class's number is its place among the sorted WordNet ids.
    classes = {str(number): name_of[wnid] for number, wnid in enumerate(sorted(name_of))}
    present = set(_folders(root))
    return {key: name for key, name in classes.items() if key in present}, _images_by_folder(root, "")


def read_places365(root: Path) -> Listing:
    number_of = dict(_pairs(root / "categories_places365.txt"))
    entries: list[Entry] = []
    training = ("data_256_standard", "data_256", "data_large_standard", "data_large")
    for listing, folders, split in (
        ("places365_train_standard.txt", training, "reward"),
        ("places365_val.txt", ("val_256", "val_large"), "heldout"),
    ):
        folder = next((folder for folder in folders if (root / folder).is_dir()), None)
        if folder is not None:
            pairs = _pairs(root / listing)
            entries += [Entry(f"{folder}/{file.removeprefix('/')}", number, split) for file, number in pairs]
    if not entries:
        raise NotAsExpected(f"{root} has neither training nor validation images")
    return {number: names.place_name(category) for category, number in number_of.items()}, entries


# ---------------------------------------------------------------- files and folders


def _named(entries: Iterable[Entry], name: Callable[[str], str]) -> dict[str, str]:
    """The classes of sets that list only images, in alphabetical order, which is the official one."""
    return {key: name(key) for key in sorted({entry.key for entry in entries}, key=str.lower)}


def _lines(path: Path) -> list[str]:
    try:
        lines = text_lines(path, str(path))
    except UserError as error:
        raise NotAsExpected(str(error).removesuffix(".")) from error
    return [line.strip() for line in lines if line.strip()]


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of each line, and what follows it."""
    for line in _lines(path):
        columns = line.split(maxsplit=1)
        if len(columns) < 2:
            raise NotAsExpected(f"{path} has the line {line!r} where two columns should be")
        yield columns[0], columns[1]


def _matlab(path: Path, variable: str, fields: tuple[str, ...] = ()) -> np.ndarray[Any, Any]:
    """A variable of a MATLAB file as a list without dimensions of length 1."""
    import numpy as np
    import scipy.io

    try:
        values = np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[variable])
    except Exception as error:  # a damaged file fails in ways that depend on the byte
        raise NotAsExpected(f"{path} cannot be read as a MATLAB file with {variable!r}") from error
    missing = [field for field in fields if field not in (values.dtype.names or ())]
    if missing:
        raise NotAsExpected(f"{path} has no {missing[0]!r} in {variable!r}")
    return values


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _images_by_folder(root: Path, part: str, split: str | None = None) -> Iterator[Entry]:
    others = []
    for key in _folders(root / part):
        parent = f"{part}/{key}" if part else key
        # Strings and not Paths: ImageNet has 1.3 million.
        for name in sorted(entry.name for entry in os.scandir(root / parent)):
            if is_image(name):
                yield Entry(f"{parent}/{name}", key, split)
            elif not name.startswith("."):
                others.append(f"{parent}/{name}")
    say_what_is_left_out(str(root), others)


def _synset_names(root: Path) -> dict[str, str]:
    """Names by WordNet id from the first list of names in ImageNet's folder or the one around it."""
    around = root.resolve().parent
    found = [path for folder in (root, around) for name in NAME_FILES if (path := folder / name).is_file()]
    if not found:
        raise NotAsExpected(f"neither {root} nor {around} has a list of class names ({', '.join(NAME_FILES)})")
    path = found[0]
    if path.suffix == ".txt":
        return names.synset_names(dict(_pairs(path)))
    try:
        if path.suffix == ".json":
            return names.synset_names(dict(parse_json(path.read_bytes()).values()))
        import torch

        return names.synset_names(
            {wnid: ", ".join(words) for wnid, words in torch.load(path, weights_only=True)[0].items()}
        )
    except Exception as error:  # JSON and pickles of another make fail in many ways
        raise NotAsExpected(f"{path} cannot be read as ImageNet's list of class names") from error
