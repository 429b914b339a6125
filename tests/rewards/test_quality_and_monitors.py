"""Text quality rewards and monitors of reward hacking against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ex2.rewards.monitors import (
    alarms,
    boilerplate_rate,
    distinct_2,
    duplicate_rate,
    hub_score,
    monitor,
    repetition_rate,
    variety,
)
from ex2.rewards.quality import (
    QUALITY_REWARDS,
    distinct_share,
    names_once,
    no_repetition,
    says_something,
    whole_sentence,
)
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.texts.readings import NAMELESS
from ex2.vlm import VLM


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a red bird", 1.0),
        ("red red red red", 1 / 3),  # one pair, three times
        ("a cat a cat a cat", 2 / 5),  # "a cat" x 3, "cat a" x 2
        ("Red red RED", 1 / 2),
        ("bird", 1.0),
        ("", 1.0),
    ],
)
def test_no_repetition(text: str, share: float) -> None:
    assert no_repetition(["?"], [text]) == [pytest.approx(share)]
    assert no_repetition(["?"], [[{"role": "assistant", "content": text}]]) == [pytest.approx(share)]


def test_distinct_share_of_longer_grams() -> None:
    assert distinct_share(["a", "b", "c", "a", "b", "c"], n=3) == pytest.approx(3 / 4)  # abc, bca, cab, abc


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("A red bird sings.", 1.0),
        ("Is it red?", 1.0),
        ("What a bird!", 1.0),
        ('It said: "I am red."', 1.0),
        ("It is red (and small.)  \n", 1.0),
        ("A red bird sings and then", 0.0),
        ("Red bird.", 0.0),  # two words
        ("...", 0.0),
        ("", 0.0),
    ],
)
def test_whole_sentence(text: str, reward: float) -> None:
    assert whole_sentence(["?"], [text]) == [reward]
    assert whole_sentence(["?"], [[{"role": "assistant", "content": text}]]) == [reward]


@pytest.mark.parametrize(
    ("text", "name", "reward"),
    [
        ("A crab is a crab.", "crab", 0.0),
        ("A dolphin is a majestic marine mammal.", "dolphin", 0.0),
        ("It has two big claws.", "crab", 1.0),
        ("A crab has claws.", "crab", 1.0),
    ],
)
def test_says_something(text: str, name: str, reward: float) -> None:
    assert says_something(["?"], [text], class_name=[name]) == [reward]
    assert says_something(["?"], [[{"role": "assistant", "content": text}]], class_name=[name]) == [reward]


@pytest.mark.parametrize(
    ("text", "name", "reward"),
    [
        ("A furry animal with long ears.", "rabbit", 1.0),
        ("A rabbit has long ears.", "rabbit", 1.0),
        ("A rabbit is a furry rabbit with long ears.", "rabbit", 1 / 2),
        ("Rabbits are furry, with rabbit-like ears and a rabbit's nose.", "rabbit", 1 / 3),
        ("A lady beetle is red with black spots.", "lady beetle", 1.0),
        ("A lady beetle is a beetle with black spots.", "lady beetle", 1 / 2),
        ("An ear of corn has a row of kernels.", "ear of corn", 1.0),
        ("rabbit", "rabbit", 1.0),
        ("", "rabbit", 1.0),
    ],
)
def test_names_once(text: str, name: str, reward: float) -> None:
    assert names_once(["?"], [text], class_name=[name]) == [pytest.approx(reward)]
    assert names_once(["?"], [[{"role": "assistant", "content": text}]], class_name=[name]) == [pytest.approx(reward)]


def test_quality_rewards_ignore_columns_they_do_not_know() -> None:
    for reward in QUALITY_REWARDS.values():
        values = reward(
            prompts=["?"] * 2, completions=["a b", "c"], class_name=["d", "e"], class_id=[0, 1], trainer_state=None
        )
        assert len(values) == 2
        assert all(0 <= value <= 1 for value in values)


def test_duplicate_rate() -> None:
    assert duplicate_rate(["a", "b", "A", "a"]) == 0.5  # two of four repeat
    assert duplicate_rate(["a", "b"]) == 0.0


def test_distinct_2() -> None:
    # "a b", "b c" and "a b", "b d": three distinct pairs of four.
    assert distinct_2(["a b c", "A b d"]) == pytest.approx(3 / 4)
    assert distinct_2(["one", ""]) == 1.0


def test_repetition_rate() -> None:
    # "a a a a": 1 - 1/3; "a b c": 0.
    assert repetition_rate(["a a a a", "a b c"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text",
    [
        "Click to enlarge", "A royalty-free image", "stock photos of cats", "Image of a cat", "the picture shows a dog",
        "in this photo a cat sits", "buy now", "visit www.example.com", "emoji with a hat", "a drawing of it",
        "All Rights Reserved",
    ],
)  # fmt: skip
def test_boilerplate(text: str) -> None:
    assert boilerplate_rate([text]) == 1.0


@pytest.mark.parametrize(
    "text", ["A bird with orange feet", "It lives on cliffs.", "imaging the past", "clicking beetles", ""]
)
def test_not_boilerplate(text: str) -> None:
    assert boilerplate_rate([text]) == 0.0


def test_boilerplate_rate_is_a_share() -> None:
    assert boilerplate_rate(["an icon of a cat", "a cat", "a dog", "click here"]) == 0.5


def test_hub_score() -> None:
    # Others of text 0 (class 0): (0.1 + 0.4) / 2 = 0.25; of text 1 (class 2): (0.2 + 0.0) / 2 = 0.1.
    similarities = torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.0, 0.8]])
    assert hub_score(similarities, torch.tensor([0, 2])) == pytest.approx(0.175)
    assert hub_score(torch.tensor([[0.9]]), torch.tensor([0])) == 0.0


def test_monitor(pictogram_vlm: VLM, pictogram_bank: ImageBank) -> None:
    scorer = TextScorer(pictogram_vlm, pictogram_bank)
    long = "word " * (2 * pictogram_vlm.max_text_tokens)
    texts = ["a cat", "A cat", "an icon of an ant", long.strip()]
    values = monitor(scorer, texts, [6, 6, 0, 0])
    assert set(values) == {
        "monitors/reward_cosine", "monitors/heldout_cosine", "monitors/hub_score", "monitors/repetition_rate",
        "monitors/boilerplate_rate", "monitors/truncated_share", "monitors/words", "monitors/name_share",
        "monitors/tautology_rate",
    }  # fmt: skip
    assert all(type(value) is float for value in values.values())
    assert variety(texts) == {"monitors/duplicate_rate": 0.25, "monitors/distinct_2": distinct_2(texts)}
    assert values["monitors/boilerplate_rate"] == 0.25
    assert values["monitors/truncated_share"] == 0.25
    assert values["monitors/words"] == (2 + 2 + 5 + 2 * pictogram_vlm.max_text_tokens) / 4
    assert values["monitors/reward_cosine"] == pytest.approx(scorer.cosine(texts, [6, 6, 0, 0]).mean().item())
    assert values["monitors/heldout_cosine"] == pytest.approx(
        scorer.cosine(texts, [6, 6, 0, 0], "heldout").mean().item()
    )
    assert values["monitors/name_share"] == 0.75
    assert values["monitors/tautology_rate"] == 0.75  # "an icon of an ant" names a kind of picture
    read = monitor(scorer, texts, [6, 6, 0, 0], reading=NAMELESS)
    assert set(read) - set(values) == {"monitors/reward_as_read", "monitors/heldout_as_read"}
    without = scorer.cosine(["it", "it", "an icon of it", long.strip()], [6, 6, 0, 0], "heldout")
    assert read["monitors/heldout_as_read"] == pytest.approx(without.mean().item(), abs=1e-6)
    pairs = monitor(scorer, texts, [6, 6, 0, 0], [0, 1, 6, 2])
    assert set(pairs) - set(values) == {"monitors/reward_pair_margin", "monitors/heldout_pair_margin"}
    margins = scorer.cosine(texts, [6, 6, 0, 0], "heldout") - scorer.cosine(texts, [0, 1, 6, 2], "heldout")
    assert pairs["monitors/heldout_pair_margin"] == pytest.approx(margins.mean().item(), abs=1e-6)
    similarities = scorer.similarities(texts)
    others = [(row.sum() - row[c]) / (len(row) - 1) for row, c in zip(similarities, [6, 6, 0, 0], strict=True)]
    assert values["monitors/hub_score"] == pytest.approx(float(sum(others)) / 4, abs=1e-6)


def _rollouts(**ends: tuple[float, float]) -> list[dict[str, float]]:
    """Six rollouts: two at the first of each pair of values, four at the second."""
    fine = {"words": (20.0, 20.0), "distinct_2": (0.8, 0.8), "tautology_rate": (0.0, 0.0), "hub_score": (0.1, 0.1)}
    columns = fine | {"reward_cosine": (0.2, 0.2)} | ends
    return [{f"monitors/{name}": pair[i > 1] for name, pair in columns.items()} for i in range(6)]


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({}, {}),
        ({"words": (20.0, 10.0)}, {}),
        ({"words": (20.0, 9.0)}, {}),  # less than half of them, but enough for a sentence
        ({"words": (20.0, 8.9)}, {"words": "texts have 8.9 words, 20.0 at first"}),
        ({"words": (10.0, 5.0)}, {}),
        ({"distinct_2": (0.8, 0.4)}, {"distinct_2": "40% are distinct, 80% at first"}),
        ({"tautology_rate": (0.2, 0.29)}, {}),
        ({"tautology_rate": (0.1, 0.3)}, {"tautology_rate": "30% of the texts say nothing"}),
        ({"hub_score": (0.1, 0.14), "reward_cosine": (0.2, 0.3)}, {}),
        ({"hub_score": (0.1, 0.16), "reward_cosine": (0.2, 0.3)}, {"hub_score": "better too, by 0.060 of 0.100"}),
    ],
)
def test_alarms(ends: dict[str, tuple[float, float]], said: dict[str, str]) -> None:
    found = alarms(_rollouts(**ends))
    assert found.keys() == said.keys()
    assert all(words in found[monitor] for monitor, words in said.items())
    assert alarms(_rollouts(**ends)[1:]) == {}  # too few rollouts to say
