"""Tables of image files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ex2.base.errors import UserError
from ex2.data import LabelledImages, load_images


def table(folder: Path, *lines: str) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (3, 2), (7, 8, 9)).save(folder / name)
    file = folder / "images.csv"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def load(file: Path) -> LabelledImages:
    images = load_images(f"csv:{file}")
    assert isinstance(images, LabelledImages)
    return images


def test_paths_classes_and_splits(tmp_path: Path) -> None:
    file = table(
        tmp_path, "class,note,path,split", "red_fox,x,a.png,train", '"ant, black",y,b.png,heldout', "red fox,,c.png,VAL"
    )
    images = load(file)
    assert images.name == f"csv:{file}"
    assert images.class_names == ("ant, black", "red fox")
    assert images.image_ids == ("a.png", "b.png", "c.png")
    assert images.labels == (1, 0, 1)
    assert images.splits == ("reward", "heldout", "validation")
    assert images.load(1).getpixel((0, 0)) == (7, 8, 9)


def test_no_splits_and_byte_order_mark(tmp_path: Path) -> None:
    file = table(tmp_path, "\ufeffpath,class", "a.png,ant", "b.png,bee")
    assert load(file).splits is None
    file = table(tmp_path, "path,class,split", "a.png,ant,train", "b.png,bee,train")
    assert load(file).splits is None  # all the same: nothing to hold out


def test_nothing_is_decoded_and_changes_are_noticed(tmp_path: Path) -> None:
    file = table(tmp_path, "path,class", "a.png,ant", "none.png,ant")
    images = load(file)
    with pytest.raises(OSError, match=r"No such file"):
        images.load(1)
    (tmp_path / "a.png").write_bytes(b"broken")
    assert load(file).fingerprint != images.fingerprint


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "photos" / "1.png")
    file = table(tmp_path, "path,class", "photos\\1.png,ant")
    assert load(file).load(0).getpixel((0, 0)) == (1, 2, 3)
    before = load(file).fingerprint
    (tmp_path / "photos" / "1.png").write_bytes(b"other")
    assert load(file).fingerprint != before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["file,class", "a.png,ant"],
            ": the first line has no column 'path' (it has 'file', 'class'); expected the columns",
        ),
        (["path;class", "a.png;ant"], ": the first line has no column 'path' (it has 'path;class'); "),
        (["path,label", "a.png,ant"], ": the first line has no column 'class' (it has 'path', 'label'); "),
        (["path,class", "a.png,\"['ant', 'bee']\""], ", line 2: \"['ant', 'bee']\" is a list of classes; an image has"),
        (["path,class", "a.png,ant;bee"], ", line 2: 'ant;bee' is a list of classes; an image has one class."),
        (["path,class", "a.png,ant|bee"], ", line 2: 'ant|bee' is a list of classes; an image has one class."),
        ([], ": the first line has no column 'path'; "),
        (["path,class"], ": there are no lines below the header; "),
        (["path,class", "a.png,ant", "b.png"], ", line 3: class is empty; "),
        (["path,class", ",ant"], ", line 2: path is empty; "),
        (["path,class", "a.png,ant", "a.png,bee"], ", line 3: 'a.png' is on line 2 too; an image has one class."),
        (["path,class", "a.png,ant", "./a.png,bee"], ", line 3: './a.png' is on line 2 too; an image has one class."),
        (["path,class", "b/a.png,ant", "b\\a.png,bee"], ", line 3: 'b\\\\a.png' is on line 2 too; an image has one"),
        (
            ["path,class,split", "a.png,ant,somewhere"],
            ", line 2: split 'somewhere' is none of reward, heldout,",
        ),
        (["path,class", "a.png,ant\0"], ", line 2: there is a NUL character; save the table as CSV in UTF-8"),
        (["path,class,split", "a.png,ant,test", "b.png,ant"], ", line 3: split '' is none of "),
        (["path,class", '"a.png,ant'], ": cannot be read as CSV in UTF-8 (unexpected end of data); "),
    ],
)
def test_bad_tables_are_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    file = table(tmp_path, *lines)
    with pytest.raises(UserError) as caught:
        load_images(f"csv:{file}")
    assert str(caught.value).startswith(f"dataset 'csv:{file}'{message}")


def test_missing_file_and_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv does not exist; expected the columns path,class"):
        load_images(f"csv:{tmp_path}/none.csv")
    with pytest.raises(UserError, match=r"is no file; expected"):
        load_images(f"csv:{tmp_path}")
    with pytest.raises(UserError, match=r"dataset 'csv:': no file named after the colon"):
        load_images("csv:")
    file = tmp_path / "latin.csv"
    file.write_bytes("path,class\na.png,käfer\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no UTF-8 text .* save the file as UTF-8"):
        load_images(f"csv:{file}")
