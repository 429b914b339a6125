"""The embedded pictograms as an image set."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.data import LabelledImages, load_images
from ex2.data.pictograms import PICTOGRAMS, load_pictograms


def test_classes_splits_and_images_of_the_embedded_set() -> None:
    images = load_images("pictograms")
    families = json.loads((PICTOGRAMS / "LICENSES.json").read_text(encoding="utf-8"))
    assert images.name == "pictograms"
    assert "tropical fish" in images.class_names
    assert not any("_" in name for name in images.class_names)
    assert list(images.class_names) == sorted(images.class_names, key=lambda name: name.replace(" ", "_"))
    assert images.splits is not None
    for image_id, label, split in zip(images.image_ids, images.labels, images.splits, strict=True):
        folder, family = image_id.removesuffix(".webp").split("/")
        assert images.class_names[label] == folder.replace("_", " ")
        assert (split == "reward") == (families[family]["vlm_split"] == "train")
    for label in range(len(images.class_names)):
        present = {split for other, split in zip(images.labels, images.splits, strict=True) if other == label}
        assert {"reward", "heldout"} <= present
    assert images.load(0).mode == "RGB"
    assert images.load(0).size == (96, 96)


def test_enough_held_out_images_for_three_points() -> None:
    """Where two systems disagree on one image in 14, 3 points are two standard errors of 300 images."""
    images = load_images("pictograms?heldout=all")
    assert images.splits is not None
    assert images.splits.count("heldout") >= 300
    heldout = Counter(label for label, split in zip(images.labels, images.splits, strict=True) if split == "heldout")
    assert min(heldout[label] for label in range(len(images.class_names))) >= 2
    assert len({images.load(i).tobytes() for i in range(len(images))}) == len(images)  # no drawing twice


def test_every_licence_is_permissive() -> None:
    families = json.loads((PICTOGRAMS / "LICENSES.json").read_text(encoding="utf-8"))
    permissive = {"Apache-2.0", "MIT", "ISC", "CC-BY-3.0", "CC-BY-4.0", "CC-PDDC"}
    assert {entry["spdx"] for entry in families.values()} <= permissive
    notice = (PICTOGRAMS / "NOTICE.md").read_text(encoding="utf-8")
    assert all(entry["source"] in notice and entry["author"] in notice for entry in families.values())


# Looked at by eye.
SEEN = {
    "lemon/twemoji.webp": "yellow",
    "frog/twemoji.webp": "green",
    "frog/noto.webp": "green",
    "tomato/fxemoji.webp": "red",
    "elephant/emojione.webp": "gray",
    "carrot/twemoji.webp": "orange",
    "panda/emojione.webp": "white",
    "eggplant/twemoji.webp": "purple",
    "dolphin/openclipart.webp": "light blue",
    "banana/openclipart.webp": "yellow",
    "spider/game-icons.webp": "black",
}


def test_attributes_of_drawings_looked_at() -> None:
    images = load_images("pictograms?heldout=all")
    assert isinstance(images, LabelledImages)
    row = {image_id: i for i, image_id in enumerate(images.image_ids)}
    for image_id, colour in SEEN.items():
        assert colour in images.attributes["palette"][row[image_id]].split(", "), image_id
    assert images.attributes["family"][row["lemon/twemoji.webp"]] == "twemoji"
    sizes = images.attributes["size"]
    assert sizes[row["tomato/fxemoji.webp"]] == "large"
    assert sizes[row["banana/tabler.webp"]] == "small"  # an outline
    assert set(images.attributes["background"]) == {"white"}
    assert set(images.attributes["count"]) == {"1"}


def test_held_out_families_can_be_named() -> None:
    everything, first = load_images("pictograms?heldout=all"), load_images("pictograms?heldout=twemoji,fxemoji")
    assert isinstance(first, LabelledImages)
    assert first.name == "pictograms?heldout=twemoji,fxemoji"
    assert first.class_names == everything.class_names
    assert first.splits is not None
    rows = [i for i, split in enumerate(first.splits) if split == "heldout"]
    assert {first.attributes["family"][i] for i in rows} == {"twemoji", "fxemoji"}
    assert len(rows) == 100  # what the model card's test figures and earlier measurements are about
    assert len(first) == 573
    assert first.fingerprint != everything.fingerprint
    by_default = load_images("pictograms")
    assert isinstance(by_default, LabelledImages)
    assert by_default.image_ids == first.image_ids


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("heldout=noto", "no held-out family 'noto'; there are twemoji, fxemoji"),
        ("heldout=", "no held-out family ''"),
        ("split=test", "the only option is heldout=all, or heldout=FAMILY,FAMILY"),
    ],
)
def test_queries_that_fit_nothing_are_refused(query: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_images(f"pictograms?{query}")


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    families = {"noto": "train", "emojione": "validation", "twemoji": "test", "fxemoji": "held-out"}
    source = next((PICTOGRAMS / "images" / "cat").glob("*.webp"))
    for folder in ("cat", "polar_bear"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for family in families:
            shutil.copy(source, tmp_path / "images" / folder / f"{family}.webp")
    licences = {family: {"vlm_split": split} for family, split in families.items()}
    (tmp_path / "LICENSES.json").write_text(json.dumps(licences), encoding="utf-8")
    rows = [f"{folder}/{family}.webp,yellow,large" for folder in ("cat", "polar_bear") for family in families]
    (tmp_path / "attributes.csv").write_text("\n".join(["image,palette,size", *rows]), encoding="utf-8")
    return tmp_path


def test_every_role_of_a_family_maps_to_a_split(small_set: Path) -> None:
    images = load_pictograms(small_set, "heldout=all")
    assert images.class_names == ("cat", "polar bear")
    assert images.labels == (0,) * 4 + (1,) * 4
    assert images.image_ids[:2] == ("cat/emojione.webp", "cat/fxemoji.webp")
    assert images.splits == ("validation", "heldout", "reward", "heldout") * 2


def test_fingerprint_covers_content_and_splits_but_not_times(small_set: Path) -> None:
    start = load_pictograms(small_set).fingerprint
    path = small_set / "images" / "cat" / "noto.webp"
    content = path.read_bytes()
    path.write_bytes(content)  # a new time
    assert load_pictograms(small_set).fingerprint == start
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the same size
    changed = load_pictograms(small_set).fingerprint
    path.write_bytes(content)
    licences = (small_set / "LICENSES.json").read_text(encoding="utf-8")
    (small_set / "LICENSES.json").write_text(licences.replace("validation", "test"), encoding="utf-8")
    assert len({start, changed, load_pictograms(small_set).fingerprint}) == 3


def test_missing_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'pictograms': no images under .*; install the package again"):
        load_pictograms(tmp_path)
