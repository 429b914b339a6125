"""The benchmark sets, each on a miniature of the layout that its archive unpacks to."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from ex2.base.errors import UserError
from ex2.data import LabelledImages, load_images
from ex2.data.benchmarks import BENCHMARKS
from ex2.data.selection import choose_images

SYNSETS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}


def jpeg(path: Path, colour: tuple[int, int, int] = (90, 90, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), colour).save(path, "JPEG")


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def matlab(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def cells(*values: str) -> np.ndarray:
    """A column of MATLAB cells, as the sets' own files have them."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


def cub(root: Path) -> None:
    files = [
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0003_1033.jpg",
    ]
    for file in files:
        jpeg(root / "images" / file)
    text(root / "images.txt", *(f"{i} {file}" for i, file in enumerate(files, 1)))
    text(root / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Laysan_Albatross")
    text(root / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(root / "train_test_split.txt", "1 0", "2 1", "3 1", "4 0")


def aircraft(root: Path) -> None:
    text(root / "data" / "variants.txt", "707-320", "Boeing 717")
    for part, start in (("train", 1), ("val", 3), ("test", 5)):
        images = [f"{start:07d}", f"{start + 1:07d}"]
        for image in images:
            jpeg(root / "data" / "images" / f"{image}.jpg")
        text(root / "data" / f"images_variant_{part}.txt", f"{images[0]} 707-320", f"{images[1]} Boeing 717")


def flowers(root: Path) -> None:
    labels = [label for label in range(1, 103) for _ in range(3)]
    for i in range(1, len(labels) + 1):
        jpeg(root / "jpg" / f"image_{i:05d}.jpg")
    matlab(root / "imagelabels.mat", labels=np.array([labels], dtype=np.uint8))
    ids = np.arange(1, len(labels) + 1, dtype=np.uint16).reshape(-1, 3)
    matlab(root / "setid.mat", trnid=ids[None, :, 0], valid=ids[None, :, 1], tstid=ids[None, :, 2])


def pets(root: Path) -> None:
    for part, number in (("trainval", 1), ("test", 2)):
        names = [f"Abyssinian_{number}", f"american_bulldog_{number}", f"Birman_{number}"]
        for name in names:
            jpeg(root / "images" / f"{name}.jpg")
        text(root / "annotations" / f"{part}.txt", *(f"{name} {i} 1 1" for i, name in enumerate(names, 1)))


def cars(root: Path) -> None:
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
    matlab(root / "devkit" / "cars_meta.mat", class_names=names)
    fields = [("bbox_x1", object), ("class", object), ("fname", object)]
    for folder, path, labels in (
        ("cars_train", root / "devkit" / "cars_train_annos.mat", (2, 1)),
        ("cars_test", root / "cars_test_annos_withlabels.mat", (1, 2)),
    ):
        for i in (1, 2):
            jpeg(root / folder / f"{i:05d}.jpg")
        rows = [(39, label, f"{i:05d}.jpg") for i, label in enumerate(labels, 1)]
        matlab(path, annotations=np.array([rows], dtype=fields).reshape(1, -1))


def dogs(root: Path) -> None:
    for part, number in (("train_list", 1), ("test_list", 2)):
        files = [
            f"n02085620-Chihuahua/n02085620_{number}.jpg",
            f"n02105641-Old_English_sheepdog/n02105641_{number}.jpg",
        ]
        for file in files:
            jpeg(root / "Images" / file)
        matlab(root / f"{part}.mat", file_list=cells(*files), labels=np.array([[1], [2]]))


def dtd(root: Path) -> None:
    for part, number in (("train1", 1), ("val1", 2), ("test1", 3)):
        files = [f"banded/banded_{number:04d}.jpg", f"polka-dotted/polka-dotted_{number:04d}.jpg"]
        for file in files:
            jpeg(root / "images" / file)
        text(root / "labels" / f"{part}.txt", *files)


def eurosat(root: Path) -> None:
    for folder in ("AnnualCrop", "Industrial", "SeaLake"):
        for i in (1, 2):
            jpeg(root / folder / f"{folder}_{i}.jpg")


def food101(root: Path) -> None:
    for part, number in (("train", 1005649), ("test", 1011328)):
        images = [f"apple_pie/{number}", f"baby_back_ribs/{number}"]
        for image in images:
            jpeg(root / "images" / f"{image}.jpg")
        text(root / "meta" / f"{part}.txt", *images)


def imagenet(root: Path) -> None:
    for wnid in SYNSETS:
        jpeg(root / "train" / wnid / f"{wnid}_10026.JPEG")
        jpeg(root / "val" / wnid / "ILSVRC2012_val_00000293.JPEG")
    text(root / "LOC_synset_mapping.txt", *(f"{wnid} {words}" for wnid, words in SYNSETS.items()))


def imagenetv2(root: Path) -> None:
    for number in (0, 2, 10):
        for i in (1, 2):
            jpeg(root / str(number) / f"{i}.jpeg")
    index = {str(i): [f"n{i:08d}", f"thing_{i}"] for i in range(1000)}
    text(root / "imagenet_class_index.json", json.dumps(index))


def places365(root: Path) -> None:
    categories = ["/a/airfield", "/a/apartment_building/outdoor"]
    text(root / "categories_places365.txt", *(f"{category} {i}" for i, category in enumerate(categories)))
    train = [f"{category}/00000001.jpg" for category in categories]
    for file in train:
        jpeg(root / "data_256" / file.removeprefix("/"))
    text(root / "places365_train_standard.txt", *(f"{file} {i}" for i, file in enumerate(train)))
    for i in (1, 2):
        jpeg(root / "val_256" / f"Places365_val_{i:08d}.jpg")
    text(root / "places365_val.txt", "Places365_val_00000001.jpg 1", "Places365_val_00000002.jpg 0")


MINIATURES: dict[str, Callable[[Path], None]] = {
    "cub": cub, "aircraft": aircraft, "flowers": flowers, "pets": pets, "cars": cars, "dogs": dogs, "dtd": dtd,
    "eurosat": eurosat, "food101": food101, "imagenet": imagenet, "imagenetv2": imagenetv2, "places365": places365,
}  # fmt: skip

# Class names, and for some images: id, class, split.
EXPECTED: dict[str, tuple[tuple[str, ...], list[tuple[str, str, str | None]]]] = {
    "cub": (
        ("Black footed Albatross", "Laysan Albatross"),
        [
            (
                "images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
                "Black footed Albatross",
                "heldout",
            ),
            ("images/002.Laysan_Albatross/Laysan_Albatross_0002_1027.jpg", "Laysan Albatross", "reward"),
        ],
    ),
    "aircraft": (
        ("707-320 aircraft", "Boeing 717 aircraft"),
        [
            ("images/0000002.jpg", "Boeing 717 aircraft", "reward"),
            ("images/0000003.jpg", "707-320 aircraft", "validation"),
            ("images/0000005.jpg", "707-320 aircraft", "heldout"),
        ],
    ),
    "flowers": (
        (),
        [
            ("jpg/image_00001.jpg", "pink primrose", "reward"),
            ("jpg/image_00005.jpg", "hard-leaved pocket orchid", "validation"),
            ("jpg/image_00306.jpg", "blackberry lily", "heldout"),
        ],
    ),
    "pets": (
        ("Abyssinian", "American Bulldog", "Birman"),
        [
            ("images/american_bulldog_1.jpg", "American Bulldog", "reward"),
            ("images/Birman_2.jpg", "Birman", "heldout"),
        ],
    ),
    "cars": (
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
        [
            ("cars_train/00001.jpg", "Acura RL Sedan 2012", "reward"),
            ("cars_test/00001.jpg", "AM General Hummer SUV 2000", "heldout"),
        ],
    ),
    "dogs": (
        ("Chihuahua dog", "Old English sheepdog"),
        [
            ("Images/n02085620-Chihuahua/n02085620_1.jpg", "Chihuahua dog", "reward"),
            ("Images/n02105641-Old_English_sheepdog/n02105641_2.jpg", "Old English sheepdog", "heldout"),
        ],
    ),
    "dtd": (
        ("banded", "polka-dotted"),
        [
            ("images/banded/banded_0001.jpg", "banded", "reward"),
            ("images/banded/banded_0002.jpg", "banded", "validation"),
            ("images/polka-dotted/polka-dotted_0003.jpg", "polka-dotted", "heldout"),
        ],
    ),
    "eurosat": (
        ("annual crop", "industrial buildings", "sea or lake"),
        [("SeaLake/SeaLake_2.jpg", "sea or lake", None)],
    ),
    "food101": (
        ("apple pie", "baby back ribs"),
        [
            ("images/baby_back_ribs/1005649.jpg", "baby back ribs", "reward"),
            ("images/apple_pie/1011328.jpg", "apple pie", "heldout"),
        ],
    ),
    "imagenet": (
        ("tench", "crane bird", "construction crane"),
        [
            ("train/n02012849/n02012849_10026.JPEG", "crane bird", "reward"),
            ("val/n03126707/ILSVRC2012_val_00000293.JPEG", "construction crane", "heldout"),
        ],
    ),
    "imagenetv2": (("thing 0", "thing 2", "thing 10"), [("2/1.jpeg", "thing 2", None)]),
    "places365": (
        ("airfield", "outdoor apartment building"),
        [
            ("data_256/a/apartment_building/outdoor/00000001.jpg", "outdoor apartment building", "reward"),
            ("val_256/Places365_val_00000001.jpg", "outdoor apartment building", "heldout"),
        ],
    ),
}


def rows(images: LabelledImages) -> dict[str, tuple[str, str | None]]:
    splits = images.splits or (None,) * len(images)
    return {
        image_id: (images.class_names[label], split)
        for image_id, label, split in zip(images.image_ids, images.labels, splits, strict=True)
    }


def load(scheme: str, root: Path) -> LabelledImages:
    images = load_images(f"{scheme}:{root}")
    assert isinstance(images, LabelledImages)
    return images


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_images(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_set_has_a_miniature() -> None:
    assert MINIATURES.keys() == EXPECTED.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("scheme", MINIATURES)
def test_classes_ids_and_splits_of_the_usual_layout(scheme: str, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    images = load(scheme, tmp_path)
    class_names, some = EXPECTED[scheme]
    if class_names:
        assert images.class_names == class_names
    found = rows(images)
    for image_id, class_name, split in some:
        assert found[image_id] == (class_name, split)
    assert len(found) == sum(1 for path in tmp_path.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    assert images.name == f"{scheme}:{tmp_path}"
    assert [images.load(i).size for i in range(3)] == [(6, 5)] * 3
    # Every class has images to reward with and to hold out, with official splits or without.
    assert {choice.label for choice in choose_images(images, 0.5, 0, 8)} == set(range(len(images.class_names)))


@pytest.mark.parametrize(
    ("scheme", "folder", "reader", "parts"),
    [
        (
            "aircraft",
            "fgvc-aircraft-2013b",
            "FGVCAircraft",
            {"train": "reward", "val": "validation", "test": "heldout"},
        ),
        ("pets", "oxford-iiit-pet", "OxfordIIITPet", {"trainval": "reward", "test": "heldout"}),
        ("cars", "stanford_cars", "StanfordCars", {"train": "reward", "test": "heldout"}),
        ("dtd", "dtd/dtd", "DTD", {"train": "reward", "val": "validation", "test": "heldout"}),
        ("eurosat", "eurosat/2750", "EuroSAT", {}),
    ],
)
def test_torchvision_reads_the_same_labels(
    scheme: str, folder: str, reader: str, parts: dict[str, str], tmp_path: Path
) -> None:
    MINIATURES[scheme](tmp_path / folder)
    ours = load(scheme, tmp_path)
    make = getattr(torchvision.datasets, reader)
    for part, split in parts.items() or [(None, None)]:
        theirs = make(tmp_path, part) if part else make(tmp_path)
        chosen = [i for i in range(len(ours)) if ours.splits is None or ours.splits[i] == split]
        assert [ours.labels[i] for i in chosen] == [label for _, label in theirs]
        assert len(theirs.classes) == len(ours.class_names)


@pytest.mark.parametrize("scheme", MINIATURES)
def test_the_folder_around_a_set_will_do(scheme: str, tmp_path: Path) -> None:
    for folder in BENCHMARKS[scheme].folders:
        inner = tmp_path / folder.replace("/", "-") / folder
        MINIATURES[scheme](inner.parent if scheme == "aircraft" else inner)
        outer = load(scheme, tmp_path / folder.replace("/", "-"))
        assert outer.image_ids == load(scheme, inner).image_ids


@pytest.mark.parametrize("scheme", MINIATURES)
def test_reading_twice_gives_the_same_and_a_changed_image_a_new_fingerprint(scheme: str, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    first, again = load(scheme, tmp_path), pickle.loads(pickle.dumps(load(scheme, tmp_path)))
    assert (first.image_ids, first.labels, first.splits) == (again.image_ids, again.labels, again.splits)
    assert first.fingerprint == again.fingerprint
    image = next(path for path in sorted(tmp_path.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg"))
    image.write_bytes(b"broken")
    changed = load(scheme, tmp_path)  # nothing is decoded, so a broken image is no obstacle
    assert changed.fingerprint != first.fingerprint
    broken = next(i for i, image_id in enumerate(changed.image_ids) if image.as_posix().endswith(image_id))
    with pytest.raises(OSError, match="cannot identify image file"):
        changed.load(broken)


@pytest.mark.parametrize("scheme", MINIATURES)
def test_missing_folder_shows_the_layout(scheme: str, tmp_path: Path) -> None:
    layout = f"expected {BENCHMARKS[scheme].layout}."
    assert refusal(f"{scheme}:{tmp_path}/none") == (
        f"dataset '{scheme}:{tmp_path}/none': {tmp_path}/none does not exist; {layout}"
    )
    assert refusal(f"{scheme}:") == f"dataset '{scheme}:': no folder named after the colon; {layout}"
    assert refusal(f"{scheme}:{tmp_path}").endswith(f"; {layout}")
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(f"{scheme}:{tmp_path}/file")


@pytest.mark.parametrize(
    ("scheme", "need"), [(scheme, need) for scheme, benchmark in BENCHMARKS.items() for need in benchmark.needs]
)
def test_each_missing_part_is_named(scheme: str, need: str, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    root = tmp_path / "data" if scheme == "aircraft" else tmp_path
    shutil.rmtree(root / need) if (root / need).is_dir() else (root / need).unlink()
    assert f": {root} lacks {need}; expected DIR/" in refusal(f"{scheme}:{tmp_path}")


@pytest.mark.parametrize("scheme", [scheme for scheme, benchmark in BENCHMARKS.items() if "images" in benchmark.needs])
def test_an_image_that_is_listed_and_missing_is_unreadable_and_no_error(scheme: str, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    whole = load(scheme, tmp_path)
    next(path for path in sorted(tmp_path.rglob("*.jpg"))).unlink()
    images = load(scheme, tmp_path)
    assert images.image_ids == whole.image_ids
    assert images.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("scheme", "file"),
    [
        ("cub", "images.txt"),
        ("aircraft", "data/images_variant_val.txt"),
        ("pets", "annotations/test.txt"),
        ("places365", "places365_val.txt"),
    ],
)
def test_line_without_two_columns(scheme: str, file: str, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    text(tmp_path / file, "12")
    assert f"{tmp_path / file} has the line '12' where two columns should be" in refusal(f"{scheme}:{tmp_path}")


@pytest.mark.parametrize(
    ("scheme", "file", "variable"),
    [
        ("flowers", "imagelabels.mat", "labels"),
        ("flowers", "setid.mat", "trnid"),
        ("cars", "devkit/cars_meta.mat", "class_names"),
        ("cars", "cars_test_annos_withlabels.mat", "annotations"),
        ("dogs", "test_list.mat", "file_list"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"not MATLAB" * 30, None])
def test_damaged_matlab_file(scheme: str, file: str, variable: str, content: bytes | None, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    if content is None:
        matlab(tmp_path / file, other=np.zeros(3))
    else:
        (tmp_path / file).write_bytes(content)
    expected = f"{tmp_path / file} cannot be read as a MATLAB file with {variable!r}; expected DIR/"
    assert expected in refusal(f"{scheme}:{tmp_path}")


def test_test_annotations_of_cars_without_labels(tmp_path: Path) -> None:
    cars(tmp_path)
    rows = np.array([[(39, "00001.jpg")]], dtype=[("bbox_x1", object), ("fname", object)])
    matlab(tmp_path / "cars_test_annos_withlabels.mat", annotations=rows)
    assert "cars_test_annos_withlabels.mat has no 'class' in 'annotations'" in refusal(f"cars:{tmp_path}")


def test_class_that_the_list_of_classes_lacks(tmp_path: Path) -> None:
    cub(tmp_path)
    text(tmp_path / "classes.txt", "1 001.Black_footed_Albatross")
    assert "is of class '2', which the set's list of classes lacks" in refusal(f"cub:{tmp_path}")


def test_cub_files_must_number_the_same_images(tmp_path: Path) -> None:
    cub(tmp_path)
    text(tmp_path / "train_test_split.txt", "1 0", "2 1", "3 1")
    assert "train_test_split.txt does not number the same images as images.txt" in refusal(f"cub:{tmp_path}")


def test_flowers_numbers_outside_the_labels(tmp_path: Path) -> None:
    flowers(tmp_path)
    matlab(tmp_path / "imagelabels.mat", labels=np.array([[1, 2, 3]], dtype=np.uint8))
    assert "has numbers outside 1 ... 3" in refusal(f"flowers:{tmp_path}")


@pytest.mark.parametrize(
    ("scheme", "gone", "left"),
    [("imagenet", "train", 3), ("imagenet", "val", 3), ("places365", "data_256", 2), ("places365", "val_256", 2)],
)
def test_one_part_alone_has_no_splits(scheme: str, gone: str, left: int, tmp_path: Path) -> None:
    MINIATURES[scheme](tmp_path)
    shutil.rmtree(tmp_path / gone)
    images = load(scheme, tmp_path)
    assert images.splits is None
    assert len(images) == left


def test_imagenet_names_from_each_kind_of_list_beside_or_around_it(tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    imagenet(root)
    (root / "LOC_synset_mapping.txt").unlink()
    assert f"neither {root} nor {tmp_path} has a list of class names" in refusal(f"imagenet:{root}")
    torch.save(({wnid: tuple(words.split(", ")) for wnid, words in SYNSETS.items()}, []), tmp_path / "meta.bin")
    assert load("imagenet", root).class_names == ("tench", "crane bird", "construction crane")
    index = {str(i): [wnid, words.split(",")[0]] for i, (wnid, words) in enumerate(SYNSETS.items())}
    text(tmp_path / "imagenet_class_index.json", json.dumps(index))
    assert load("imagenet", root).class_names == ("tench", "crane bird", "construction crane")
    text(root / "classnames.txt", *(f"{wnid} my {i}" for i, wnid in enumerate(SYNSETS)))  # the nearest one counts
    assert load("imagenet", root).class_names == ("my 0", "my 1", "my 2")
    (root / "classnames.txt").unlink()
    (root / "imagenet_class_index.json").write_text("{")
    assert "imagenet_class_index.json cannot be read as ImageNet's list of class names" in refusal(f"imagenet:{root}")


def test_imagenet_validation_images_must_lie_in_class_folders(tmp_path: Path) -> None:
    imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    jpeg(tmp_path / "val" / "ILSVRC2012_val_00000293.JPEG")
    assert f"{tmp_path / 'val'} has no class folders" in refusal(f"imagenet:{tmp_path}")


def test_imagenetv2_needs_all_thousand_names(tmp_path: Path) -> None:
    imagenetv2(tmp_path)
    text(tmp_path / "LOC_synset_mapping.txt", *(f"{wnid} {words}" for wnid, words in SYNSETS.items()))
    assert "has 3 classes and not all 1000" in refusal(f"imagenetv2:{tmp_path}")
