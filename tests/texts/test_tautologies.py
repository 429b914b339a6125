"""Texts that say nothing are told from those that say something."""

from __future__ import annotations

import pytest

from ex2.texts.tautologies import says_nothing, tautology_rate


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("crab", "A crab is a crab."),
        ("crab", "Crabs, crabs and more crabs"),
        ("panda", "The panda is a panda!"),
        ("dolphin", "A dolphin is a majestic marine mammal."),
        ("lady beetle", "The lady beetle, a beetle, is a truly fascinating and unique insect."),
        ("cactus", "Cacti are a kind of plant."),
        ("tiger", "A photo of a tiger"),
        ("tiger", ""),
        ("tiger", "..."),
    ],
)
def test_nothing_is_said(name: str, text: str) -> None:
    assert says_nothing(text, name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiger", "A tiger has orange fur."),
        ("crab", "A crab has claws."),
        ("duck", "A duck swims."),
        ("dolphin", "It is gray."),
        ("tiger", "A majestic animal of the jungle"),
        ("cherries", "Two red balls"),
    ],
)
def test_one_word_is_enough_to_say_something(name: str, text: str) -> None:
    assert not says_nothing(text, name)


def test_rate() -> None:
    assert (
        tautology_rate(["A crab is a crab.", "It has claws.", "A majestic creature"], ["crab", "crab", "owl"]) == 2 / 3
    )
    assert tautology_rate([], []) == 0.0
