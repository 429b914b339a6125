"""Readings of a description: by hand, mixed, and what is refused."""

from __future__ import annotations

import pytest

from ex2.base.errors import UserError
from ex2.texts.readings import AS_WRITTEN, NAMELESS, Reading, check_names, in_frame, nameless


def lengths(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


class Numbers(list):
    """A list that adds, subtracts and scales as an array does."""

    def __add__(self, other):
        return Numbers(a + b for a, b in zip(self, other, strict=True))

    def __sub__(self, other):
        return Numbers(a - b for a, b in zip(self, other, strict=True))

    def __rmul__(self, factor):
        return Numbers(factor * a for a in self)


def test_what_is_read() -> None:
    read: list[list[str]] = []

    def score(texts: list[str]) -> Numbers:
        read.append(texts)
        return Numbers(lengths(texts))

    texts, names = ["A tiger has  stripes", "A crab is red."], ["tiger", "crab"]
    AS_WRITTEN.score(score, texts, names)
    NAMELESS.score(score, texts, names)
    framed = Reading.of(["framed"]).score(score, texts, names)
    assert read == [
        texts,
        ["it has stripes", "it is red."],
        ["tiger: it has stripes.", "crab: it is red."],
        ["tiger.", "crab."],
    ]
    assert framed == [len("tiger: it has stripes.") - 6, len("crab: it is red.") - 5]


def test_shares_add_up() -> None:
    mixed = Reading.of(["as_written", "nameless"], [0.25, 0.75])
    score = mixed.score(lambda texts: Numbers(lengths(texts)), ["A tiger runs"], ["tiger"])
    assert score == [0.25 * 12 + 0.75 * len("it runs")]
    assert str(mixed) == "0.25 as_written + 0.75 nameless"
    assert Reading.of(["framed", "nameless"]).shares == (("framed", 0.5), ("nameless", 0.5))
    assert (str(NAMELESS), NAMELESS.as_written, AS_WRITTEN.as_written) == ("nameless", False, True)


def test_a_bare_name_reads_as_the_stand_in_alone() -> None:
    assert nameless("A tiger", "tiger") == nameless("Tigers", "tiger") == "it"
    assert in_frame("It runs!", "tiger") == "tiger: It runs!"


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        (
            ["nameles"],
            None,
            r"^reading=nameles is unknown: choose among as_written, nameless, framed\. Did you mean nameless\?$",
        ),
        ([], None, "^reading=nothing: name each reading once"),
        (["framed", "framed"], None, "^reading=framed framed: name each reading once"),
        (["nameless"], [0.5, 0.5], "^reading_weights=0.5 0.5: give a positive weight for each of the 1 readings"),
        (["nameless", "framed"], [1.0, 0.0], "^reading_weights=1.0 0.0: give a positive weight for each of the 2"),
        (["nameless"], [float("nan")], "^reading_weights=nan"),
    ],
)
def test_refused(names: list[str], weights: list[float] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reading.of(names, weights)


@pytest.mark.parametrize("name", ["it", "--", "?"])
def test_names_that_cannot_be_taken_out_are_refused(name: str) -> None:
    check_names(AS_WRITTEN, [name])
    check_names(NAMELESS, ["tiger", "C++ (car)", "Зебра", "3"])
    with pytest.raises(UserError, match="^reading=nameless: the class name '.*' has no word that could be taken out"):
        check_names(NAMELESS, ["tiger", name])
