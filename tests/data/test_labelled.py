"""LabelledImages, specs, and the reader of folders with one sub-folder per class."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from ex2.base.errors import UserError
from ex2.data import LabelledImages, list_datasets, load_images
from ex2.data.benchmarks import BENCHMARKS
from ex2.data.labelled import fingerprint_of, open_image
from ex2.data.names import class_name_of


def save(path: Path, colour: tuple[int, ...] = (10, 20, 30), size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if len(colour) == 3 else "RGBA", size, colour).save(path)
    return path


def labelled(**changes: Any) -> LabelledImages:
    toy = LabelledImages("toy", ("ant", "bee"), (0, 1), ("a", "b"), None, "0", lambda i: Image.new("L", (2, 2), i))
    return replace(toy, **changes)


def test_folder_gives_classes_labels_and_ids_in_sorted_order(tmp_path: Path) -> None:
    save(tmp_path / "red_fox" / "b.PNG", (255, 0, 0))
    save(tmp_path / "red_fox" / "deep" / "a.jpeg")
    save(tmp_path / "Arctic__tern_" / "x.webp")
    (tmp_path / "red_fox" / "notes.txt").write_text("no image")
    (tmp_path / "classes.txt").write_text("no class")
    images = load_images(f"folder:{tmp_path}")
    assert images.name == f"folder:{tmp_path}"
    assert images.class_names == ("Arctic tern", "red fox")
    assert images.image_ids == ("Arctic__tern_/x.webp", "red_fox/b.PNG", "red_fox/deep/a.jpeg")
    assert images.labels == (0, 1, 1)
    assert images.splits is None
    assert len(images) == 3
    assert images.load(1).mode == "RGB"
    assert images.load(1).getpixel((0, 0)) == (255, 0, 0)


def test_every_documented_format_is_read(tmp_path: Path) -> None:
    suffixes = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "JPG"]
    for suffix in suffixes:
        save(tmp_path / "c" / f"{suffix}1.{suffix}", (200, 200, 200))
    images = load_images(f"folder:{tmp_path}")
    assert len(images) == len(suffixes)
    for i in range(len(images)):
        assert np.abs(np.asarray(images.load(i), dtype=int) - 200).max() <= 2


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    save(tmp_path / "ant" / "1.png")
    save(tmp_path / "ant" / "._1.png")
    save(tmp_path / "ant" / ".thumbnails" / "1.png")
    save(tmp_path / ".git" / "1.png")
    images = load_images(f"folder:{tmp_path}")
    assert images.image_ids == ("ant/1.png",)
    assert images.class_names == ("ant",)


def test_decoding_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.png").write_bytes(b"not an image")
    images = load_images(f"folder:{tmp_path}")
    with pytest.raises(OSError, match="cannot identify image file"):
        images.load(0)


def test_image_set_can_be_pickled(tmp_path: Path) -> None:
    save(tmp_path / "ant" / "1.png", (1, 2, 3))
    again = pickle.loads(pickle.dumps(load_images(f"folder:{tmp_path}")))
    assert again.load(0).getpixel((0, 0)) == (1, 2, 3)


def test_fingerprint_follows_files_and_classes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    first = save(root / "ant" / "1.png")
    save(root / "bee" / "1.png")
    spec = f"folder:{root}"
    start = load_images(spec).fingerprint
    assert load_images(spec).fingerprint == start
    assert load_images(f"folder:{root}/../set").fingerprint == start  # the same folder, written otherwise

    state = first.stat()
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    touched = load_images(spec).fingerprint
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert load_images(spec).fingerprint == start

    added = save(root / "ant" / "2.png")
    more = load_images(spec).fingerprint
    added.unlink()
    (root / "bee").rename(root / "wasp")
    renamed = load_images(spec).fingerprint
    assert len({start, touched, more, renamed}) == 4


def test_fingerprint_of_keeps_borders_between_parts() -> None:
    assert fingerprint_of(["a", "bc"]) != fingerprint_of(["ab", "c"])
    assert fingerprint_of([["a", "b"]]) != fingerprint_of(["a", "b"])
    assert len(fingerprint_of(["\udcff"])) == 64  # a file name that is not UTF-8


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("red_fox", "red fox"),
        ("  red__fox_ ", "red fox"),
        ("black-footed_albatross", "black-footed albatross"),
        ("__", ""),
    ],
)
def test_class_name_of(folder: str, name: str) -> None:
    assert class_name_of(folder) == name


def expect(spec: str, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        load_images(spec)
    for part in parts:
        assert part in str(caught.value)


def test_folder_missing_or_a_file(tmp_path: Path) -> None:
    expect(f"folder:{tmp_path}/none", f"{tmp_path}/none does not exist", "expected DIR/CLASS/IMAGE")
    (tmp_path / "file").write_text("")
    expect(f"folder:{tmp_path}/file", "is not a folder", "expected DIR/CLASS/IMAGE")
    expect("folder:", "no folder named after the colon")


def test_folder_without_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    (tmp_path / ".hidden").mkdir()
    expect(f"folder:{tmp_path}", "has no sub-folders", "expected DIR/CLASS/IMAGE")


def test_class_folder_without_images(tmp_path: Path) -> None:
    save(tmp_path / "ant" / "1.png")
    (tmp_path / "bee_eater").mkdir()
    (tmp_path / "bee_eater" / "1.svg").write_text("")
    expect(f"folder:{tmp_path}", "class folder 'bee_eater' has no images: bee_eater/1.svg are none by their names")


def test_class_names_that_repeat_or_are_empty(tmp_path: Path) -> None:
    save(tmp_path / "red fox" / "1.png")
    save(tmp_path / "red_fox" / "1.png")
    expect(f"folder:{tmp_path}", "folders 'red fox' and 'red_fox' both give the class name 'red fox'")
    save(tmp_path / "other" / "__" / "1.png")
    expect(f"folder:{tmp_path}/other", "folder '__' gives an empty class name")


def test_unknown_spec_names_the_nearest_and_all_forms(tmp_path: Path) -> None:
    expect("b" * 5000, "unknown image set 'bbb")  # longer than any path
    expect("pictogram", "unknown image set 'pictogram'. Did you mean 'pictograms'?", "folder:DIR")
    expect("Folders:birds", "Did you mean 'folder:birds'?", "Known: pictograms, pictogram-scenes, folder:DIR, ")
    expect("folder", "Did you mean 'folder:DIR'?")
    expect("imagenet", "unknown image set 'imagenet'. Did you mean 'imagenet:DIR'?")
    expect("flower:/data", "unknown image set 'flower:/data'. Did you mean 'flowers:/data'?")
    expect(
        "svhn",
        "unknown image set 'svhn'. Known: pictograms, pictogram-scenes, folder:DIR, ",
        "(see `ex2 list datasets`)",
    )


def test_list_datasets_names_every_form() -> None:
    benchmarks = [f"{scheme}:DIR" for scheme in BENCHMARKS]
    forms = ["pictograms", "pictogram-scenes", "folder:DIR", "csv:FILE", "hf:ID_OR_DIR", *benchmarks, "planted:KIND"]
    assert [form for form, _ in list_datasets()] == forms
    assert all(text and "\n" not in text for _, text in list_datasets())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (0,)}, "one entry per image"),
        ({"splits": ("reward",)}, "one entry per image"),
        ({"attributes": {"size": ("small",)}}, "attribute 'size' has 1 entries for 2 images; it needs one per image"),
        ({"image_ids": ("a", "a")}, "image_ids repeat"),
        ({"class_names": ("ant", "ant")}, "class names repeat or are empty"),
        ({"class_names": ("ant", "")}, "class names repeat or are empty"),
        ({"labels": (0, 2)}, "labels must lie in 0 ... 1"),
        ({"splits": ("reward", "test")}, "unknown split 'test'; splits are reward, heldout, validation"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        labelled(**changes)


def test_load_converts_to_rgb() -> None:
    assert labelled().load(1).getpixel((0, 0)) == (1, 1, 1)


def test_garbled_files_raise_only_the_documented_errors(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    draw = random.Random(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "c" / "1.png"
    path.parent.mkdir()
    path.touch()
    images = load_images(f"folder:{tmp_path}")
    failures = 0
    for suffix in ("jpeg", "png", "webp", "bmp", "gif", "tiff"):
        noise.save(tmp_path / f"good.{suffix}", exif=exif)
        good = (tmp_path / f"good.{suffix}").read_bytes()
        for trial in range(60):
            bad = bytearray(good)
            if trial % 2:
                del bad[draw.randrange(len(bad)) :]
            else:
                bad[draw.randrange(min(len(bad), 200))] ^= 1 << draw.randrange(8)
            path.write_bytes(bad)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own remarks on damaged files
                try:
                    images.load(0)
                except (OSError, SyntaxError, Image.DecompressionBombError):
                    failures += 1
    assert failures > 100


def test_importing_the_readers_imports_no_torch() -> None:
    code = "import sys, ex2.data, ex2.data.pictograms, ex2.data.selection; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((4000, 3000), (2000, 1500)),
        ((9000, 8200), (1125, 1025)),
        ((2047, 4000), (2047, 4000)),
        ((640, 480), (640, 480)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_smaller_size(
    tmp_path: Path, size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "photo.jpg", quality=30)
    assert open_image(tmp_path / "photo.jpg").size == decoded
    Image.new("L", (2100, 2100)).save(tmp_path / "drawing.png")
    assert open_image(tmp_path / "drawing.png").size == (2100, 2100)
