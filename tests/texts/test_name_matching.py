"""Names of classes as published files write them: a small table of spellings, and what must not be guessed."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex2.base.errors import UserError
from ex2.texts.name_matching import match_names, read_aliases

# Of each set: how EX2 calls its classes, and how lists that people use do. In the same order.
SPELLINGS = {
    "birds": (
        (
            "Black footed Albatross",
            "Chuck will Widow",
            "Brandt Cormorant",
            "Forsters Tern",
            "Le Conte Sparrow",
            "Geococcyx",
        ),
        (
            "Black-footed Albatross",
            "Chuck-will's-widow",
            "Brandt's Cormorant",
            "Forster's Tern",
            "LeConte Sparrow",
            "geococcyx",
        ),
    ),
    "land": (
        ("annual crop", "forest", "herbaceous vegetation", "highway", "industrial buildings", "sea or lake"),
        (
            "annual crop land",
            "forest land",
            "brushland or shrubland",
            "highway or road",
            "Industrial Building",
            "lake or sea",
        ),
    ),
    "aircraft": (
        ("707-320 aircraft", "737-200 aircraft", "DC-3 aircraft", "A340-200 aircraft", "F/A-18 aircraft"),
        ("Boeing 707-320", "Boeing 737-200", "DC3", "A340-200", "F-A-18"),
    ),
    "dogs": (
        ("Chihuahua dog", "Japanese spaniel dog", "Old English sheepdog", "beagle dog"),
        ("chihuahua", "Japanese Spaniel", "old-english sheepdog", "Beagle"),
    ),
    "cars": (
        ("AM General Hummer SUV 2000", "Audi TT RS Coupe 2012", "Ram C/V Cargo Van Minivan 2012"),
        ("2000 AM General Hummer SUV", "2012 Audi TT RS Coupe", "2012 Ram C-V Cargo Van Minivan"),
    ),
    "scenes": (
        ("outdoor apartment building", "indoor church", "outdoor church", "oil rig", "dentist's office"),
        ("apartment building-outdoor", "church (indoor)", "church (outdoor)", "oilrig", "dentists office"),
    ),
    "pets": (
        ("Abyssinian", "American Pit Bull Terrier", "Saint Bernard", "Wheaten Terrier", "Pug", "Boxer"),
        ("abyssinian cat", "american_pit_bull_terrier", "saint bernard", "wheaten terriers", "a pug", "boxers"),
    ),
    "flowers": (
        ("colt's foot", "prince of wales feathers", "thorn apple", "ball moss", "bird of paradise", "tree poppy"),
        (
            "colts foot",
            "prince-of-wales feathers",
            "the thorn-apple",
            "air plant",
            "a bird of paradise",
            "Tree Poppies",
        ),
    ),
}


@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("turned", [False, True])
def test_published_spellings_find_their_class(kind: str, turned: bool) -> None:
    ours, theirs = SPELLINGS[kind]
    if turned:
        ours, theirs = theirs, ours
    assert match_names(theirs, ours, "file") == list(range(len(ours)))


@pytest.mark.parametrize("kind", SPELLINGS)
def test_in_any_order(kind: str) -> None:
    ours, theirs = SPELLINGS[kind]
    order = random.Random(0).sample(range(len(ours)), len(ours))
    assert match_names([theirs[i] for i in order], ours, "file") == order


@given(st.permutations(["red fox", "gray fox", "fox", "a fox", "Fox terrier", "foxglove", "1 fox", "2 fox"]))
@settings(max_examples=50, deadline=None)
def test_names_of_the_set_itself_are_always_their_own_class(names: list[str]) -> None:
    assert match_names(names, names, "file") == list(range(8))
    assert match_names(names[:5], names, "file") == list(range(5))
    assert match_names(names[::-1], names, "file") == list(range(7, -1, -1))


@pytest.mark.parametrize(
    ("found", "classes"),
    [
        (["beach"], ["beach wagon", "seashore"]),  # one common word is no match
        (["fox", "ant"], ["red fox", "gray fox", "ant"]),  # two classes fit
        (["Red fox", "red-fox"], ["red fox", "ant"]),  # two names fit
        (["wolf", "ant"], ["elk", "bee"]),
        (["Audi A5 Coupe 2012", "ant"], ["Audi S5 Coupe 2012", "bee", "ant"]),
        (["Fairchild A-10", "ant"], ["Fairchild C-10", "bee", "ant"]),
        (["ant", "wolf", "elk", "x"], ["ant", "bee", "wasp", "fly"]),  # too few in place to take the others by it
    ],
)
def test_what_could_be_another_class_is_refused_with_all_names(found: list[str], classes: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"^file: \d of \d names are no class of the dataset, or could be several"
    ) as caught:
        match_names(found, classes, "file")
    for name in found:
        assert repr(name) in str(caught.value) or name in classes
    assert "--aliases FILE (lines `NAME = CLASS`)" in str(caught.value)


SIX = ["ant", "bee", "wasp", "red fly", "moth", "lepidopteron"]


def test_the_order_counts_only_where_nothing_speaks_against_it() -> None:
    found = ["Ant", "Bee", "Wasp", "Red-Fly", "Moth", "butterfly"]
    assert match_names(found, SIX, "file") == [0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="'butterfly'.*, 'midge'"):
        match_names(["Bee", "Ant", "Wasp", "Red-Fly", "butterfly", "midge"], SIX, "file")
    with pytest.raises(UserError, match="'wolf'"):
        match_names(["auk", "owl", "wolf"], ["auk", "owl", "elk"], "file")  # so few names show no order


def test_what_was_matched_how_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ex2"):
        match_names(["ant", "bee", "wasp", "Red-Fly", "moth", "butterfly"], SIX, "lists.json")
        match_names(["ant"], ["ant"], "equal.json")
    (message,) = caplog.messages
    assert message.startswith(
        "lists.json: 2 of 6 names are written otherwise, and were matched 1 by their letters, 1 by "
    )
    assert "'butterfly' is 'lepidopteron', 'Red-Fly' is 'red fly'" in message


def test_aliases(tmp_path: Path) -> None:
    (tmp_path / "aliases.txt").write_text(
        "\ufeff# theirs = ours\nkiller whale = orca\n\n1 + 1 = 2 = two\n", encoding="utf-8"
    )
    aliases = read_aliases(tmp_path / "aliases.txt")
    assert aliases == {"killer whale": "orca", "1 + 1 = 2": "two"}
    assert match_names(["killer whale"], ["ant", "orca"], "file", aliases) == [1]
    (tmp_path / "aliases.json").write_text('{"killer whale": "orca"}')
    assert read_aliases(tmp_path / "aliases.json") == {"killer whale": "orca"}
    assert read_aliases(None) == {}
    with pytest.raises(UserError, match=r"--aliases: 'orca' is no class of the dataset"):
        match_names(["killer whale"], ["ant"], "file", aliases)
    with pytest.raises(UserError, match="no such file"):
        read_aliases(tmp_path / "none")
    for name, content in (("bad.txt", "orca"), ("bad.json", "[1]"), ("worse.json", '{"a": 1}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=re.escape(f"--aliases {tmp_path / name}")):
            read_aliases(tmp_path / name)
