"""Names of classes are found and taken out, whole or in part."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex2.texts.class_names import mentions, strip_name, strip_whole_name

# ---------------------------------------------------------------- as it is written


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tiger", "A tiger has fur.", "it has fur."),
        ("tiger", "The TIGER is big, the Tiger is loud.", "it is big, it is loud."),
        ("tiger", "Tigers hunt.", "it hunt."),
        ("tiger", "The tiger's fur", "it fur"),
        ("tiger", "The tiger’s fur", "it fur"),
        ("tiger", "The tigers' den, the tigers’ den", "it den, it den"),
        ("tiger", "A so-called 'tiger' is big", "A so-called 'it' is big"),
        ("ant", "an ant in a giant plant wants it", "it in a giant plant wants it"),
        ("fox", "Two foxes", "Two it"),
        ("butterfly", "Butterflies fly, a butterfly's wing", "it fly, it wing"),
        ("monkey", "Monkeys climb", "it climb"),
        ("wolf", "Wolves howl, a wolf's howl", "it howl, it howl"),
        ("maple leaf", "Maple leaves are red", "it are red"),
        ("knife", "knives and a knife", "it and it"),
        ("reef", "the reefs", "it"),
        ("ear of corn", "Ears of corn are yellow, an ear of corn is long", "it are yellow, it is long"),
        ("red-winged blackbird", "The Red-winged\nBlackbird sings", "it sings"),
        ("red-winged blackbird", "red winged blackbirds sing", "it sing"),
        ("red winged blackbird", "A red-winged blackbird sings", "it sings"),
        ("red winged blackbird", "A blackbird, red and winged", "A blackbird, red and winged"),
        ("C++ (car)", "The C++ (car) is fast, C++ is not", "it is fast, C++ is not"),
        (".*", "Any text .* here", "Any text it here"),
        ("Boeing 737-200", "The Boeing 737-200 flies, a Boeing 737 does", "it flies, a Boeing 737 does"),
        ("ara", "El Arará ara", "El Arará it"),
        ("émeu", "L’émeu, an Émeu", "L’it, it"),
    ],
)
def test_the_name_goes_with_article_plural_and_possessive(name: str, text: str, expected: str) -> None:
    assert strip_whole_name(text, name) == expected


def test_stand_in_is_taken_literally_and_remains_where_nothing_else_does() -> None:
    assert strip_whole_name("A tiger sleeps", "tiger", r"\1 \g<0>") == r"\1 \g<0> sleeps"
    assert strip_whole_name("", "tiger") == "it"
    assert strip_whole_name("Tiger", "tiger", "") == ""
    assert strip_whole_name("It is - here, too", "-") == "It is - here, too"  # a name without a letter to find it by


WORDS = st.text(st.characters(categories=["Lu", "Ll", "Nd", "Ps", "Pe", "Sm"]), min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), st.sampled_from(["", "The ", "a "]))
def test_any_name_can_be_stripped(name: str, article: str) -> None:
    assert strip_whole_name(f"{article}{name} sleeps", name, "#") == "# sleeps"
    assert strip_whole_name(f"Q{name}Q sleeps", name, "#") == f"Q{name}Q sleeps"


# ---------------------------------------------------------------- strictly


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("Cacti are green plants with spines", "cactus", "it are green plants with spines"),
        ("Geese and a goose-like bird, mice", "goose", "it and it-like bird, mice"),
        ("The beetle is a Lady among Beetles", "lady beetle", "it is it among it"),
        ("A four leaf clover, a clover, a leaf", "four-leaf clover", "it, it, it"),
        ("Tiny-clover-goats eat cloverleaf", "four leaf clover", "it eat it"),
        ("An ear of corn with corny ears of corn", "ear of corn", "it with it"),
        ("It is of the sea", "ear of corn", "It is of the sea"),  # "of" names nothing
        ("A bearish bear with a beard, bearing fruit", "bear", "it with a beard, bearing fruit"),
        ("A cat's catlike catfish", "cat", "it catfish"),
        ("The T-shirt is a shirt", "T-shirt", "it is it"),
        ("Pandabear, Tig-er and a TIGER'S tail", "tiger", "Pandabear, it and it tail"),
        ("Lady, beetle!", "lady beetle", "it, it!"),
        ("It runs, and it it hides", "horse", "It runs, and it hides"),
        ("Tigers", "tiger", "it"),
        ("", "tiger", "it"),
        ("A plain text", "-", "A plain text"),  # a name without a letter to find it by
        ("Зебры и зебра", "зебра", "Зебры и it"),  # plurals of other languages are not known
    ],
)
def test_parts_plurals_and_compounds_go_too(text: str, name: str, expected: str) -> None:
    assert strip_name(text, name) == expected


def test_a_stand_in_may_be_empty_or_another_name() -> None:
    assert strip_name("A lady beetle is a beetle with spots", "lady beetle", "") == "is with spots"
    assert strip_name("A lady beetle is a beetle with spots", "lady beetle", "panda") == "panda is panda with spots"


NAMES = st.sampled_from(
    ["tiger", "lady beetle", "four-leaf clover", "ear of corn", "cactus", "palm tree", "goose", "sheep"]
)
PLAIN = st.sampled_from(
    ["a", "small", "green", "bird", "with", "wings,", "and", "stripes.", "it", "lives", "in", "water"]
)
IRREGULAR = {"cactus": "cacti", "goose": "geese", "leaf": "leaves"}


@st.composite
def hidden_names(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A name, a text that hides words of it in many ways, and those words."""
    name = draw(NAMES)
    words = [word for word in re.findall(r"\w+", name) if word != "of"]
    hide = st.sampled_from(words).flatmap(
        lambda word: st.sampled_from(
            [word, word.upper(), f"{word}s", IRREGULAR.get(word, word), f"{word}'s", f"tiny-{word}", f"{word}-like",
             f"{word}like", f"the {word}", f"({word})", f"{word},"]
        )
    )  # fmt: skip
    return name, " ".join(draw(st.lists(st.one_of(PLAIN, hide), min_size=1, max_size=12))), words


@given(hidden_names())
def test_no_word_of_the_name_is_left(case: tuple[str, str, list[str]]) -> None:
    name, text, words = case
    left = strip_name(text, name)
    assert not re.search(
        rf"(?i)\b({'|'.join([*words, *(IRREGULAR[w] for w in words if w in IRREGULAR)])})s?\b", left
    ), left
    assert strip_name(left, name) == left  # nothing more to take


@given(st.lists(PLAIN, min_size=1, max_size=12).map(" ".join), NAMES)
def test_what_names_nothing_stays(text: str, name: str) -> None:
    assert strip_name(text, name) == re.sub(r"\bit( it)+\b", "it", text)


@given(st.sampled_from(["tiger", "lady beetle", "ear of corn", "cactus"]), st.integers(0, 4))
def test_mentions_are_counted_by_name(name: str, count: int) -> None:
    assert mentions(", ".join([f"the {name}"] * count), name) == count
    assert mentions("It is large" + ", as a " * bool(count) + ", as a ".join([name] * count) + ".", name) == count
