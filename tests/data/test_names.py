"""Readable class names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex2.data import names


def test_flowers_in_the_order_of_labels() -> None:
    assert len(names.FLOWERS) == len(set(names.FLOWERS)) == 102
    by_label = {
        1: "pink primrose",
        12: "colt's foot",
        23: "fritillary",
        51: "petunia",
        74: "rose",
        102: "blackberry lily",
    }
    assert {label: names.FLOWERS[label - 1] for label in by_label} == by_label
    assert all(name == names.class_name_of(name) for name in names.FLOWERS)


@pytest.mark.parametrize(
    ("processed", "expected"),
    [
        (names.cub_name("001.Black_footed_Albatross"), "Black footed Albatross"),
        (names.dog_name("n02085620-Chihuahua"), "Chihuahua dog"),
        (names.dog_name("n02096051-Airedale"), "Airedale dog"),
        (names.dog_name("n02116738-African_hunting_dog"), "African hunting dog"),
        (names.dog_name("n02105855-Shetland_sheepdog"), "Shetland sheepdog"),
        (names.dog_name("n02099267-flat-coated_retriever"), "flat-coated retriever dog"),
        (names.with_noun("707-320", "aircraft"), "707-320 aircraft"),
        (names.with_noun("Model Aircraft", "aircraft"), "Model Aircraft"),
        (names.pet_name("american_pit_bull_terrier"), "American Pit Bull Terrier"),
        (names.pet_name("Egyptian_Mau"), "Egyptian Mau"),
        (names.eurosat_name("HerbaceousVegetation"), "herbaceous vegetation"),
        (names.eurosat_name("Forest"), "forest"),
        (names.eurosat_name("Residential"), "residential buildings"),
        (names.eurosat_name("SeaLake"), "sea or lake"),
        (names.place_name("/a/airfield"), "airfield"),
        (names.place_name("/c/church/indoor"), "indoor church"),
        (names.place_name("/s/stadium/baseball"), "baseball stadium"),
        (names.place_name("/e/elevator/door"), "elevator door"),
        (names.place_name("/t/train_station/platform"), "train station platform"),
        (names.place_name("/u/underwater/ocean_deep"), "underwater ocean deep"),
        (names.place_name("/t/temple/asia"), "Asian temple"),
    ],
)
def test_names_of_each_set(processed: str, expected: str) -> None:
    assert processed == expected


def test_synsets_take_their_first_synonym() -> None:
    synonyms = {"n02071294": "killer whale, killer, orca", "n01484850": "great_white_shark"}
    assert names.synset_names(synonyms) == {"n02071294": "killer whale", "n01484850": "great white shark"}


def test_homonyms_of_imagenet_stay_two_classes() -> None:
    synonyms = {
        "n02012849": "crane",
        "n03126707": "crane",
        "n02113186": "Cardigan, Cardigan Welsh corgi",
        "n02963159": "cardigan",
        "n03710637": "maillot",
        "n03710721": "maillot, tank suit",
    }
    assert list(names.synset_names(synonyms).values()) == [
        "crane bird", "construction crane", "Cardigan Welsh corgi", "cardigan", "maillot", "tank suit",
    ]  # fmt: skip
    assert names.synset_names({"n02012849": "crane"}) == {"n02012849": "crane"}  # no other crane, no need
    assert names.synset_names({"n1": "bat", "n2": "bat"}) == {"n1": "bat (n1)", "n2": "bat (n2)"}


@given(st.dictionaries(st.from_regex(r"n\d{8}", fullmatch=True), st.sampled_from(["bat", "Bat", "bow", "bow, arc"])))
def test_synset_names_are_distinct_and_do_not_depend_on_order(synonyms: dict[str, str]) -> None:
    given_names = names.synset_names(synonyms)
    assert given_names.keys() == synonyms.keys()
    assert len({name.lower() for name in given_names.values()}) == len(synonyms)
    assert names.synset_names(dict(reversed(synonyms.items()))) == given_names
