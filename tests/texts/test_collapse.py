"""Collapse: texts that shrink, repeat or only name are called so, with the numbers counted by hand, and others are not."""

from __future__ import annotations

import pytest

from ex2.texts.collapse import distinct_2, signs_of_collapse

NAMES = ("crab", "owl", "banana", "tiger")
WORDS = {"crab": "claws", "owl": "eyes", "banana": "peel", "tiger": "stripes"}


def said(*forms: str) -> list[tuple[str, str]]:
    """Each form about each class; {} is its name, {word} a word of its own."""
    return [(name, form.replace("{word}", WORDS[name]).replace("{}", name)) for name in NAMES for form in forms]


SOUND = said("A {} has long {word} that shine in the sun.", "Its {word} are what children draw first of a {}.")


def test_sound_texts_have_not_collapsed() -> None:
    assert signs_of_collapse(SOUND, SOUND) == []
    assert signs_of_collapse(SOUND) == []
    assert signs_of_collapse([]) == []
    # Half of the words is not less than half of them.
    assert signs_of_collapse(said("It has {word}."), said("It has long bright {word}.", "It has {word} of gold.")) == []


def test_words_that_are_shed() -> None:
    # 10 words a text before training, 4 after it; of 30 before it ten are less than half, but enough to describe.
    assert signs_of_collapse(SOUND, [(name, f"{text} {text} {text}") for name, text in SOUND]) == []
    (sign,) = signs_of_collapse(said("It has long {word}."), SOUND)
    assert sign == "shrank to 4.0 words, 10.0 before training"


def test_one_text_for_all_classes_repeats_whatever_their_names() -> None:
    one = said("A {} is best seen from the left in good light.")
    (sign,) = signs_of_collapse(one, SOUND)
    assert sign == "repeat each other: 25% (100% before training) are different once the class name is taken out"
    (sign,) = signs_of_collapse(one)
    assert sign == "repeat each other: 25% are different once the class name is taken out"


def test_more_texts_repeat_more_which_is_no_collapse() -> None:
    """Twelve texts of which four differ look repetitive beside four; the first of each class differ as much."""
    assert (
        signs_of_collapse(said(*["It has long curved {word} of a fine kind."] * 3), said("It has long {word}.")) == []
    )


def test_stock_phrases() -> None:
    stock = said("It is one of all the things that we know with {word}.")
    # Ten pairs in all texts and one of each, of 11 in each of four.
    assert distinct_2([text for _, text in stock]) == pytest.approx((10 + 4) / 44)
    (sign,) = signs_of_collapse(stock, [(name, f"{name} {' '.join(f'{name}{i}' for i in range(9))}") for name in NAMES])
    assert sign == (
        "became stock phrases for all classes: 32% (100% before training) of the word pairs are different where each class has "
        "one text"
    )
    assert signs_of_collapse(stock) == []  # how many are few depends on how many texts there are


def test_a_policy_that_settles_on_what_to_say_of_each_class_has_not_collapsed() -> None:
    """Three texts of a class share most of their words, those of different classes none: few pairs are distinct in all."""
    said = [(name, f"{' '.join(f'{name}{i}' for i in range(9))} {last}") for name in NAMES for last in ("a", "b", "c")]
    before = [(name, " ".join(f"{name}{k}{i}" for i in range(10))) for name in NAMES for k in range(3)]
    assert distinct_2([text for _, text in said]) == pytest.approx((8 + 3) / 27)
    assert signs_of_collapse(said, before) == []


def test_texts_that_only_name() -> None:
    (sign,) = signs_of_collapse([*said("A {} is a {}, a kind of {} animal."), *SOUND], [*SOUND, *SOUND])
    # Of 12 texts 4 say nothing; none did before.
    assert sign.startswith(
        "often are only names: 33% (0% before training) of them say nothing but the class name again"
    )


def test_clauses_that_only_name() -> None:
    """Every text says something, but most of its clauses do not: what 69 % of the clauses of a collapsed run did."""
    (sign,) = signs_of_collapse(said("A {} is a {}. It is a {}. It has {word}, like no other thing that we know."))
    assert sign.startswith(
        "are mostly names: 67% of their clauses say nothing but the class name again or what kind of thing"
    )


def test_what_was_so_before_training_is_no_collapse() -> None:
    empty = said("A {} is a beautiful {}.", "A {} has {word}.")
    assert signs_of_collapse(empty, empty) == []
