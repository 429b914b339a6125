"""Similarity rewards against numbers worked out by hand, and against the plain mean over images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.rewards.normalization import RewardStats
from ex2.rewards.similarity import (
    SIMILARITY_REWARDS,
    centered,
    cosine,
    log_softmax,
    margin,
    pair_margin,
    raw_rewards,
    similarity_reward,
)
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.vlm import VLM

# Three texts and five classes.
SIMILARITIES = torch.tensor(
    [
        [0.30, 0.10, 0.20, 0.00, -0.10],
        [0.50, 0.40, 0.30, 0.20, 0.10],
        [0.25, 0.25, 0.25, 0.25, 0.25],
    ]
)
CLASSES = torch.tensor([0, 1, 4])


def close(actual: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_cosine() -> None:
    close(cosine(SIMILARITIES, CLASSES, 100.0), [0.30, 0.40, 0.25])


def test_centered() -> None:
    # Row means: 0.5 / 5 = 0.1, 1.5 / 5 = 0.3, 0.25.
    close(centered(SIMILARITIES, CLASSES, 100.0), [0.20, 0.10, 0.0])


def test_margin() -> None:
    # Three best others: (0.2 + 0.1 + 0.0) / 3 = 0.1; (0.5 + 0.3 + 0.2) / 3 = 1/3; 0.25.
    close(margin(SIMILARITIES, CLASSES, 100.0), [0.20, 0.40 - 1 / 3, 0.0])


def test_margin_with_fewer_classes_than_it_compares() -> None:
    close(margin(SIMILARITIES[:, :2], torch.tensor([0, 1, 0]), 100.0), [0.20, -0.10, 0.0])
    close(margin(SIMILARITIES[:, :3], torch.tensor([0, 1, 0]), 100.0), [0.30 - 0.15, 0.40 - 0.40, 0.0])


def test_log_softmax() -> None:
    # Logit scale 10, two classes: logits 3 and 1 give -log(1 + e^-2); 4 against 5 gives -log(1 + e); equal gives -log 2.
    actual = log_softmax(SIMILARITIES[:, :2], torch.tensor([0, 1, 0]), 10.0)
    close(actual, [-math.log(1 + math.exp(-2)), -math.log(1 + math.e), -math.log(2)])


def test_pair_margin() -> None:
    others = torch.tensor([2, 0, 3])
    close(pair_margin(SIMILARITIES, CLASSES, 100.0, others), [0.30 - 0.20, 0.40 - 0.50, 0.0])
    close(pair_margin(SIMILARITIES, others, 100.0, CLASSES), [0.20 - 0.30, 0.50 - 0.40, 0.0])


def test_a_text_that_fits_everything_gains_only_from_cosine() -> None:
    hub = torch.full((1, 5), 0.9)
    own = torch.tensor([2])
    assert cosine(hub, own, 100.0).item() == pytest.approx(0.9)
    assert centered(hub, own, 100.0).item() == pytest.approx(0.0, abs=1e-6)
    assert margin(hub, own, 100.0).item() == pytest.approx(0.0, abs=1e-6)
    assert log_softmax(hub, own, 100.0).item() == pytest.approx(-math.log(5), abs=1e-5)


@pytest.fixture(scope="module")
def scorer(pictogram_vlm: VLM, pictogram_bank: ImageBank) -> TextScorer:
    return TextScorer(pictogram_vlm, pictogram_bank)


TEXTS = ["an orange cat with stripes", "a red and white mushroom", "a steam train", "blue", ""]


def plain_mean(bank: ImageBank, embedding: Tensor, class_id: int, split: str) -> float:
    """Mean cosine to the images of a class the long way: image by image."""
    cosines = [
        torch.nn.functional.cosine_similarity(embedding.double(), bank.embeddings[row].double(), dim=0).item()
        for row in bank.rows(split).tolist()
        if int(bank.labels[row]) == class_id
    ]
    assert len(cosines) == bank.counts_of(split)[class_id]
    return sum(cosines) / len(cosines)


@pytest.mark.parametrize("split", ["reward", "heldout"])
def test_cosine_is_the_plain_mean_over_image_cosines(
    scorer: TextScorer, pictogram_vlm: VLM, pictogram_bank: ImageBank, split: str
) -> None:
    class_ids = [3, 0, len(pictogram_bank.class_names) - 1, 7, 7]
    embeddings = pictogram_vlm.encode_texts(TEXTS)
    expected = [plain_mean(pictogram_bank, e, c, split) for e, c in zip(embeddings, class_ids, strict=True)]
    assert scorer.cosine(TEXTS, class_ids, split).tolist() == pytest.approx(expected, abs=1e-6)
    assert raw_rewards(cosine, scorer, TEXTS, class_ids, split).tolist() == pytest.approx(expected, abs=1e-6)


def call(reward: Any, completions: list[Any], class_id: list[int], other_id: list[int] | None = None) -> list[float]:
    """As TRL calls a reward: by name, with columns that it does not know."""
    others = {} if other_id is None else {"other_id": other_id, "other_name": ["y"] * len(completions)}
    return reward(
        prompts=["?"] * len(completions), completions=completions, completion_ids=[[1]] * len(completions),
        class_id=class_id, class_name=["x"] * len(completions), **others, trainer_state=None, log_extra=None, log_metric=None,
    )  # fmt: skip


OTHERS = [0, 1, 7, 3, 0]


@pytest.mark.parametrize("name", list(SIMILARITY_REWARDS))
def test_scale_multiplies_all_but_log_softmax(scorer: TextScorer, name: str) -> None:
    class_ids = [3, 0, 1, 7, 7]
    raw = raw_rewards(SIMILARITY_REWARDS[name], scorer, TEXTS, class_ids, other_ids=OTHERS).tolist()
    rewards = call(similarity_reward(SIMILARITY_REWARDS[name], scorer, scale=100.0), TEXTS, class_ids, OTHERS)
    factor = 1.0 if name == "log_softmax" else 100.0
    assert all(type(value) is float for value in rewards)
    assert rewards == pytest.approx([factor * value for value in raw], abs=1e-4)


@pytest.mark.parametrize("name", ["cosine", "centered", "margin", "log_softmax"])
def test_statistics_replace_the_scale(scorer: TextScorer, name: str) -> None:
    class_ids = [3, 0, 1, 3, 3]
    raw = raw_rewards(SIMILARITY_REWARDS[name], scorer, TEXTS, class_ids).tolist()
    means = [0.1 * i for i in range(len(scorer.bank.class_names))]
    rewards = call(
        similarity_reward(SIMILARITY_REWARDS[name], scorer, scale=100.0, stats=RewardStats(tuple(means), 0.5)),
        TEXTS,
        class_ids,
    )
    expected = [(value - means[c]) / 0.5 for value, c in zip(raw, class_ids, strict=True)]
    assert rewards == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["cosine", "pair_margin"])
def test_statistics_of_pairs_are_those_of_the_ordered_pair(scorer: TextScorer, name: str) -> None:
    class_ids, classes = [3, 0, 1, 7, 7], len(scorer.bank.class_names)
    raw = raw_rewards(SIMILARITY_REWARDS[name], scorer, TEXTS, class_ids, other_ids=OTHERS).tolist()
    means = [0.0] * classes**2
    for n, (i, j) in enumerate(zip(class_ids, OTHERS, strict=True)):
        means[i * classes + j] = 0.1 * n
    rewards = call(
        similarity_reward(SIMILARITY_REWARDS[name], scorer, scale=100.0, stats=RewardStats(tuple(means), 0.5)),
        TEXTS,
        class_ids,
        OTHERS,
    )
    assert rewards == pytest.approx([(value - 0.1 * n) / 0.5 for n, value in enumerate(raw)], abs=1e-5)


def test_rewards_carry_their_names(scorer: TextScorer) -> None:
    assert [
        similarity_reward(SIMILARITY_REWARDS[name], scorer, scale=1.0).__name__ for name in SIMILARITY_REWARDS
    ] == list(SIMILARITY_REWARDS)


def test_plain_and_conversational_completions_score_the_same(scorer: TextScorer) -> None:
    reward = similarity_reward(centered, scorer, scale=100.0)
    chat = [[{"role": "assistant", "content": f"  {text}\n"}] for text in TEXTS]
    assert call(reward, chat, [1] * 5) == call(reward, TEXTS, [1] * 5)


@pytest.mark.parametrize("name", ["centered", "margin", "log_softmax"])
def test_refuses_to_compare_classes_where_there_is_one(
    scorer: TextScorer, pictogram_bank: ImageBank, name: str
) -> None:
    class OneClass:
        bank = type("Bank", (), {"class_names": ("cat",)})

    with pytest.raises(
        UserError, match=rf"^reward_funcs={name} compares classes, but the dataset has only one; use cosine"
    ):
        similarity_reward(SIMILARITY_REWARDS[name], OneClass(), scale=1.0)
    assert similarity_reward(cosine, OneClass(), scale=1.0).__name__ == "cosine"
