"""Clauses, names, and the rule by which clauses make a text: examples, hand-computed numbers, properties."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex2.base.errors import UserError
from ex2.texts.categories import (
    ABSTAIN_BELOW,
    ALL_TAGS,
    CATEGORIES,
    INFORMATIVE,
    TAGS,
    Judgement,
    Passage,
    check_category,
    of_text,
    split_clauses,
    tags_by_category,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "judge.md"

# What clauses are cut at, and what could be mistaken for it.
PIECES = st.sampled_from(
    ["It", "has", "fur", "and", "which", "with", "e.g.", "No.", "St.", "3.5", "-", "—", "...", ";", ":", "red,", "end."]
    + ["(end.)", '"end."', "what?", "no!", "that", "is", "where", "\n\n", "\t", "\u00a0", ","]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=25).map(" ".join))


# ---------------------------------------------------------------- clauses


@given(TEXTS)
def test_clauses_joined_are_the_text_with_white_space_collapsed(text: str) -> None:
    assert " ".join(split_clauses(text)) == " ".join(text.split())


@given(TEXTS)
def test_no_clause_of_several_is_a_single_word(text: str) -> None:
    clauses = split_clauses(text)
    assert clauses
    assert len(clauses) == 1 or all(len(clause.split()) >= 2 for clause in clauses)


@pytest.mark.parametrize(
    "clauses",
    [
        ["It has orange fur.", "It lives in Siberia."],
        ["What a bird!", "It sings at dawn."],
        ["It has a red crown;", "it nests in trees."],
        ["It has orange fur with black stripes", "and lives in Siberia."],
        ["A big cat", "with a long tail", "that lives in Siberia."],
        ["It is a small bird", "that is found in marshes"],
        ["It has thick fur,", "which is often used for coats."],
        ["It eats seeds,", "and lives in Mexico, Texas, and Arizona."],
        ["A small bird", "which eats seeds"],
        ["It is a wading bird,", "native to Africa."],
        ["It is grey,", "while its belly is white."],
        ["A stocky bird", "- found in marshes"],
        ["A stocky bird", "\u2014 found in marshes"],
        ["It is large", "but it is quiet."],
        ["Its fur is red", "because it eats shrimps."],
        ['"It is red."', "She said so."],
        ["(It is red.)", "It is tall."],
        ["It has red fur.", "It is tall", "and has long legs, which are thin."],
    ],
    ids=" | ".join,
)
def test_clauses_that_say_a_thing_of_their_own_are_cut_apart(clauses: list[str]) -> None:
    assert split_clauses(" ".join(clauses)) == tuple(clauses)


@pytest.mark.parametrize(
    "text",
    [
        "It has tall, green leaves.",
        "A long bill that is curved",
        "A bird with yellow legs",
        "A bird which is often seen near rivers",
        "A bird that lives in marshes.",
        "An aircraft with a T-tail",
        "with long legs, webbed feet, and a curved bill.",
        "often seen in parks, gardens, and woods",
        "It has wings which have white spots",
        "petals, whose tips are red",
        "red, white, or blue",
        "It has black and white feathers.",
        "It eats fish and squid.",
        "It is found in e.g. Spain.",
        "It weighs approx. 3.5 kg.",
        "It was bred by Dr. Smith of St. Bernard.",
        "It has a well-known, long-tailed look.",
        "It seems sandy, golden or tan.",
        "The island of Crete",
        "A whichever island",
        "Black.",
        "",
        ".",
        "...",
    ],
)
def test_what_belongs_together_stays_together(text: str) -> None:
    assert split_clauses(text) == (text,)


def test_a_single_word_goes_to_its_neighbour() -> None:
    assert split_clauses("Wow! It has red fur. Nice. It is tall.") == ("Wow! It has red fur. Nice.", "It is tall.")


def test_blank_text_is_one_empty_clause() -> None:
    assert split_clauses(" \n\t ") == ("",)
    assert Passage.of("owl", " ") == Passage("owl", ("",))


def test_passage_of_text() -> None:
    assert Passage.of("owl", "It hoots.\n\nIt  has wings.") == Passage("owl", ("It hoots.", "It has wings."))


# ---------------------------------------------------------------- judgements


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    weights = draw(st.lists(st.integers(0, 100), min_size=len(CATEGORIES), max_size=len(CATEGORIES)).filter(any))
    return Judgement(tuple(weight / sum(weights) for weight in weights), draw(st.sampled_from([(), ("colour",)])))


def test_unsure_is_no_category() -> None:
    unsure = Judgement((0.39, 0.3, 0.0, 0.11, 0.1, 0.1))
    assert (unsure.category, unsure.best, unsure.probability) == (None, "visual", 0.39)
    assert Judgement((0.25, ABSTAIN_BELOW, 0.2, 0.05, 0.1, 0.0)).category == "habitat"
    assert [Judgement(tuple(float(i == j) for j in range(6))).category for i in range(6)] == list(CATEGORIES)


def test_text_by_hand() -> None:
    first = Judgement((0.8, 0.1, 0.0, 0.05, 0.05, 0.0), ("part", "size"))
    text = of_text([first, Judgement((0.1, 0.1, 0.2, 0.0, 0.4, 0.2), ("colour",))])
    assert text.probabilities == pytest.approx((0.45, 0.1, 0.1, 0.025, 0.225, 0.1))
    assert text.tags == ("colour", "size", "part")  # each once, in the order of ALL_TAGS


def test_a_text_is_about_something_as_far_as_its_clauses_are() -> None:
    visual, habitat, nothing = (Judgement(tuple(float(i == j) for j in range(6))) for i in (0, 1, 4))
    # Two visual clauses outweigh one about habitat, and empty ones count like any other.
    assert of_text([visual, habitat, visual]).category == "visual"
    assert of_text([nothing, nothing, visual]).category == "spurious"
    assert of_text([visual, habitat, nothing]).category is None


@pytest.mark.parametrize("clauses", [1, 2, 4, 8])
def test_what_texts_are_about_does_not_depend_on_how_many_clauses_they_have(clauses: int) -> None:
    """Texts whose clauses are drawn from one pool, 40 % of it empty: the mean of their probabilities is the pool's."""
    pool = [0] * 30 + [1] * 10 + [3] * 20 + [4] * 40
    generator = Random(clauses)
    texts = [
        of_text([Judgement(tuple(float(i == j) for j in range(6))) for i in generator.choices(pool, k=clauses)])
        for _ in range(4_000)
    ]
    means = [sum(text.probabilities[j] for text in texts) / len(texts) for j in range(6)]
    assert means == pytest.approx([0.3, 0.1, 0, 0.2, 0.4, 0], abs=0.03)


@given(st.lists(judgements(), min_size=1, max_size=6), st.randoms())
def test_probabilities_of_a_text_sum_to_one_whatever_the_order(clauses: list[Judgement], random) -> None:
    text = of_text(clauses)
    assert sum(text.probabilities) == pytest.approx(1)
    assert min(text.probabilities) >= 0
    shuffled = random.sample(clauses, len(clauses))
    assert of_text(shuffled).probabilities == pytest.approx(text.probabilities)
    assert of_text(clauses[:1]).probabilities == pytest.approx(clauses[0].probabilities)
    assert of_text(clauses * 2).probabilities == pytest.approx(text.probabilities)


# ---------------------------------------------------------------- categories and tags


def test_tags_are_those_of_the_definitions() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [(name, tuple(re.findall(r"`(\w+)`", tags))) for name, tags in rows] == list(TAGS.items())
    assert tuple(TAGS) == CATEGORIES
    assert INFORMATIVE == ("visual", "habitat", "kind", "non_visual")
    assert len(set(ALL_TAGS)) == len(ALL_TAGS) == sum(map(len, TAGS.values()))


def test_tags_by_category() -> None:
    found = tags_by_category(["diet", "part", "colour", "no tag"])
    assert found == {"visual": ("colour", "part"), "non_visual": ("diet",)}
    assert tags_by_category([]) == {}


@pytest.mark.parametrize("value", ["Visual", "unsure", "", None, 3])
def test_a_category_that_is_none_is_refused(value: object) -> None:
    assert check_category("habitat", "here") == "habitat"
    message = f"labels.jsonl:7: category {value!r} is none of visual, habitat, kind, non_visual, spurious, name_echo"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_category(value, "labels.jsonl:7")
