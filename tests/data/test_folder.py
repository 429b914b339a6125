"""Folders of images as people have them: splits, unusual endings, names that are no text, pipes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from ex2.base.errors import UserError
from ex2.data import LabelledImages, load_images
from ex2.data.labelled import BrokenImage, image_extensions
from ex2.data.names import split_of


def save(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(root / name)


def load(root: Path) -> LabelledImages:
    images = load_images(f"folder:{root}")
    assert isinstance(images, LabelledImages)
    return images


@pytest.mark.parametrize(
    "label", ["train", "Training", "train_set", "train2017", "trainset", "train-images", "training set"]
)
def test_names_of_splits(label: str) -> None:
    assert split_of(label) == "reward"
    assert split_of("brain") is split_of("train station") is split_of("") is None


def test_folders_called_like_splits_are_splits(tmp_path: Path) -> None:
    save(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "val", "test") for name in ("red_fox", "ant")))
    images = load(tmp_path)
    assert images.class_names == ("ant", "red fox")
    assert images.splits is not None
    assert dict(zip(images.image_ids, images.splits, strict=True)) == {
        f"{folder}/{name}/1.png": split
        for folder, split in (("train", "reward"), ("val", "validation"), ("test", "heldout"))
        for name in ("ant", "red_fox")
    }


def test_validation_images_are_held_out_where_there_are_no_others(tmp_path: Path) -> None:
    save(tmp_path, "train/ant/1.png", "val/ant/1.png")
    assert load(tmp_path).splits == ("reward", "heldout")


def test_one_split_alone_is_divided_by_seed(tmp_path: Path) -> None:
    save(tmp_path, "train/ant/1.png", "train/bee/1.png")
    images = load(tmp_path)
    assert (images.class_names, images.splits) == (("ant", "bee"), None)


def test_splits_below_the_classes(tmp_path: Path) -> None:
    save(tmp_path, "ant/train/1.png", "ant/test/1.png", "bee/train/1.png", "bee/test/1.png")
    assert load(tmp_path).splits == ("heldout", "reward", "heldout", "reward")
    save(tmp_path, "bee/2.png")  # then they are folders like any other
    assert load(tmp_path).splits is None


def test_classes_that_are_called_like_a_split_among_others(tmp_path: Path) -> None:
    save(tmp_path, "train/1.png", "plane/1.png")
    assert load(tmp_path).class_names == ("plane", "train")


@pytest.mark.parametrize("spec", ["folder", "bare"])
def test_classes_that_lie_below_something_else_are_said(
    tmp_path: Path, spec: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, *(f"{style}/{name}/1.png" for style in ("photo", "sketch") for name in ("cat", "dog")))
    with caplog.at_level(logging.WARNING, logger="ex2"):
        load_images(f"folder:{tmp_path}" if spec == "folder" else str(tmp_path))
    (message,) = caplog.messages
    assert "its classes are photo, sketch, and each holds the folders cat, dog: if those are the classes" in message
    caplog.clear()
    save(tmp_path, "photo/1.png")  # then they are parts of a class
    load_images(f"folder:{tmp_path}")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("train/1.png", "test/1.png"),
            "its classes would be test, train, which are splits: put a folder for each class",
        ),
        (("train/test/1.png", "train/train/1.png"), "its classes would be test, train, which are splits"),
        (
            ("train/ant/1.png", "val/ant/1.png", "masks/1.png"),
            "train, val are splits by their names, but masks beside them",
        ),
        (
            ("data/train/ant/1.png", "data/test/ant/1.png"),
            r"its only class would be 'data', .*name that one \(folder:.*data\)",
        ),
        (("images/ant/1.png", "images/bee/1.png"), r"its only class would be 'images', which holds folders itself"),
        (("train/images/1.png", "val/images/1.png"), r"1 of 1 classes have no names .*images"),
    ],
)
def test_splits_that_cannot_be_used_are_said(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    save(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif", "ppm", "jp2", "tga", "ico", "qoi", "pcx", "JFIF"])
def test_everything_that_pillow_decodes_is_read(tmp_path: Path, ending: str) -> None:
    save(tmp_path, f"ant/1.{ending}")
    assert load(tmp_path).load(0).mode == "RGB"


def test_what_would_run_a_program_is_not_read(tmp_path: Path) -> None:
    assert not {".eps", ".ps", ".wmf"} & set(image_extensions())
    save(tmp_path, "ant/1.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "drawing.eps")
    os.replace(tmp_path / "drawing.eps", tmp_path / "ant" / "1.png")
    with pytest.raises(BrokenImage, match="cannot identify image file"):
        load(tmp_path).load(0)


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, "ant/1.png", "bee/1.png", "stray.png")
    save(tmp_path.with_name("elsewhere"), "2.png")
    (tmp_path / "ant" / "more").symlink_to(tmp_path.with_name("elsewhere"))
    for name in ("ant/1.txt", "ant/deep/1.heic", "ant/.hidden", "bee/\u202etxt.gnp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING, logger="ex2"):
        load(tmp_path)
    (message,) = caplog.messages
    assert "5 passed over" in message
    assert "ant/1.txt, ant/deep/1.heic, ant/more/, bee/[U+202E]txt.gnp, stray.png" in message


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    save(tmp_path, "ant/1.png")
    os.replace(tmp_path / "ant" / "1.png", os.fsencode(tmp_path / "ant") + b"/caf\xe9.png")
    images = load(tmp_path)
    assert images.image_ids == (r"ant/caf\xe9.png",)
    assert images.load(0).size == (4, 3)
    os.rename(tmp_path / "ant", os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError, match=r"the name of folder b'caf\\xe9' is no UTF-8; rename it"):
        load(tmp_path)


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path, "ant/1.png")
    os.mkfifo(tmp_path / "ant" / "2.png")
    with pytest.raises(BrokenImage, match="is no ordinary file"):
        load(tmp_path).load(1)


def test_a_path_without_its_scheme_is_understood(tmp_path: Path) -> None:
    save(tmp_path, "ant/1.png", "bee/1.png")
    (tmp_path / "table.csv").write_text("path,class\nant/1.png,ant\nbee/1.png,bee\n")
    assert load_images(str(tmp_path)).name == f"folder:{tmp_path}"
    assert load_images(str(tmp_path / "table.csv")).name == f"csv:{tmp_path}/table.csv"
    with pytest.raises(UserError, match=f"dataset: {tmp_path}/none does not exist"):
        load_images(f"{tmp_path}/none")
    with pytest.raises(UserError, match="is a file, and only tables"):
        load_images(str(tmp_path / "ant" / "1.png"))
