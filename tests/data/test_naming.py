"""Names of classes: WordNet ids, running numbers, what is no name, and files of names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ex2.base.errors import UserError
from ex2.data import LabelledImages
from ex2.data.names import split_class_names, with_class_names
from ex2.data.naming import with_names


def named(names: tuple[str, ...], file: Path | None = None) -> LabelledImages:
    images = LabelledImages("set", names, tuple(range(len(names))), names, None, "0", lambda i: Image.new("L", (1, 1)))
    return with_names(images, None if file is None else str(file), "folder:DIR")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("n02123045", "n02119789"), ("tabby", "kit fox")),
        (("n02012849", "n03126707"), ("crane bird", "construction crane")),
        (("n02085620-Chihuahua", "n02085782-Japanese spaniel"), ("Chihuahua", "Japanese spaniel")),
        (("001.Black footed Albatross", "002.Laysan Albatross"), ("Black footed Albatross", "Laysan Albatross")),
        (("0 cat", "1 dog"), ("cat", "dog")),
        (("Chihuahua n02085620", "tabby n02123045"), ("Chihuahua", "tabby")),
        # Some of a set's classes
        (("001.ak47", "257.clutter"), ("ak47", "clutter")),
        (("00040 Animalia", "01234 Plantae"), ("Animalia", "Plantae")),
        (("911 Turbo", "968 Cabrio"), ("911 Turbo", "968 Cabrio")),
        (("2007 Audi A4", "2012 BMW X5"), ("2007 Audi A4", "2012 BMW X5")),
        (("A310", "F-16", "707-320"), ("A310", "F-16", "707-320")),
        (("A1", "A3", "A4"), ("A1", "A3", "A4")),
        (("cat", "other"), ("cat", "other")),
        (("decade", "facade", "deadbeef"), ("decade", "facade", "deadbeef")),
    ],
)
def test_names_as_people_say_them(labels: tuple[str, ...], names: tuple[str, ...]) -> None:
    images = named(labels)
    assert images.class_names == names
    assert (images.fingerprint == "0") is (labels == names)


@pytest.mark.parametrize(
    "labels",
    [
        ("0", "1", "2"),
        ("007", "-1"),
        ("class 1", "class 2"),
        ("n99999999", "cat"),
        ("3f2a9c01d4", "77aa01bb9e"),
        ("id12", "id7"),
        ("species 12", "species 7"),
        ("label:3", "class-8"),
        ("c0", "c1", "c2"),
        ("IMG 02", "IMG 01"),
        ("True", "False"),
        ("nan", "others"),
        ("fold1", "fold2"),
        ("labeled", "unlabeled"),
        ("images", "masks"),
        ("Q140", "Q146"),
        ("m 01yrx", "/m/0bt9lr"),
    ],
)
def test_what_is_no_name_is_refused_with_the_cure(labels: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError,
        match=r"have no names but numbers, ids and the like .* Give names with --class_names FILE: one a line",
    ):
        named(labels)


def test_one_class_in_two_spellings_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"'Ant' and 'ant' differ by capitals only: write one class in one way, or give"
    ):
        named(("Ant", "ant", "bee"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "\ufeffred fox\r\n\r\n# a comment\r\nline\u2028break\r\n"),
        ("names.txt", "1 line\u2028break\n0\tred_fox\n"),
        ("names.csv", "1, line\u2028break\n0,red fox"),
        ("names.json", '["red fox", "line\u2028break"]'),
        ("names.json", '{"1": "line\u2028break", "0": "red fox"}'),
    ],
)
def test_files_of_names(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8", newline="")
    assert named(("0", "1"), tmp_path / file).class_names == ("red fox", "line break")


def test_numbers_are_named_in_their_own_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\nwasp\n")
    assert named(("0", "10", "9"), tmp_path / "names.txt").class_names == ("ant", "wasp", "bee")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fox\n", "1 names for 2 classes (0, 1): write one name a line in the order"),
        (b"0 fox\n", "1 of 2 classes have no name: 1"),
        ("fox\nant".encode("utf-16"), "is UTF-16 text"),
        (b"caf\xe9\nant", "is no UTF-8 text (invalid continuation byte at byte 3)"),
        (b"ant\nant", "class names repeat"),
    ],
)
def test_files_of_names_that_do_not_fit(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        named(("0", "1"), tmp_path / "names.txt")
    with pytest.raises(UserError, match="no such file"):
        named(("0", "1"), tmp_path / "none.txt")


@pytest.mark.parametrize("spec", ["folder:DIR", "hf:ID?split=test", "csv:a?b.csv"])
def test_specs_hold_the_file_of_names(spec: str) -> None:
    full = with_class_names(spec, "names.txt")
    assert split_class_names(full) == (spec, "names.txt")
    assert with_class_names(full, "names.txt") == full
    assert with_class_names(spec, None) == spec
    assert split_class_names(spec) == (spec, None)
