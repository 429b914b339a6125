"""The embedded pictograms as an image set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.data import load_images
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
    return tmp_path


def test_every_role_of_a_family_maps_to_a_split(small_set: Path) -> None:
    images = load_pictograms(small_set)
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
