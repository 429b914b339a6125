"""Pair accuracy by hand, its controls, and its table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.zero_shot.pair_accuracy import PairScores, format_table, name_texts, pair_accuracy, score_pairs, summarise

NAMES = ("flat", "steep", "wall")


class Angles:
    """A VLM on two dimensions: a text is the angle, in degrees, that it tells."""

    name = "angles"
    device = torch.device("cpu")

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        return _unit([float(text) for text in texts])


def _unit(degrees: Sequence[float]) -> Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


@pytest.fixture
def scorer() -> TextScorer:
    # Reward images at 0, 20, 50 (flat), 60 (steep), 90 (wall); held-out ones at 10, 80, 90.
    bank = ImageBank(
        class_names=NAMES,
        embeddings=_unit([0, 20, 50, 10, 60, 80, 90, 90]),
        labels=torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]),
        split_ids=torch.tensor([0, 0, 0, 1, 0, 1, 0, 1]),
        image_ids=tuple("abcdefgh"),
        vlm_name="angles",
        vlm_fingerprint="0",
        dataset="angles",
    )
    return TextScorer(Angles(), bank)  # type: ignore[arg-type]


def test_both_classes_count_alike_and_ties_half() -> None:
    first = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.5, 0.5], [0.4, 0.1]])  # 2.5 of 4
    second = torch.tensor([[0.1, 0.2]])  # 1 of 1
    assert pair_accuracy(first, second) == pytest.approx((2.5 / 4 + 1) / 2)


def test_by_hand(scorer: TextScorer) -> None:
    # Flat against steep: vectors at 0 and at 80, the border at 40: images at 0 and 20 are right, 50 is not; 60 is right.
    # Steep against wall: its vector is the mean of 70 and 90, 80; the wall's is 60; so 60 is wrong and 90 is wrong.
    texts = {(0, 1): ["0"], (1, 0): ["70", "90"], (1, 2): ["70", "90"], (2, 1): ["60"]}
    scores = score_pairs("mine", scorer, texts, [(0, 1), (1, 2)])
    assert scores.reward == pytest.approx(((2 / 3 + 1) / 2, 0.0))
    assert scores.heldout == pytest.approx((1.0, 0.5))  # 10 and 80; then 80 is right and 90 is wrong
    assert scores.sentences == 6


def test_equal_texts_are_chance(scorer: TextScorer) -> None:
    texts = {(i, j): ["45"] for i in range(3) for j in range(3) if i != j}
    assert score_pairs("same", scorer, texts, [(0, 1), (0, 2), (1, 2)]).heldout == (0.5, 0.5, 0.5)


def test_a_class_has_one_text_against_all_others() -> None:
    assert name_texts(NAMES, [(0, 2)], "a {}") == {(0, 2): ["a flat"], (2, 0): ["a wall"]}


def test_the_last_system_is_compared_with_the_others_pair_by_pair() -> None:
    base = PairScores("base", (0.5, 0.6, 0.7), (0.4, 0.5, 0.9), 12)
    aligned = PairScores("aligned", (0.7, 0.8, 0.9), (0.5, 0.6, 1.0), 12)
    summary = summarise([base, aligned], NAMES, [(0, 1), (0, 2), (1, 2)])
    assert summary["systems"]["base"]["heldout"]["mean"] == pytest.approx(0.6)
    difference = summary["differences"]["aligned - base"]
    assert difference["reward"]["mean"] == pytest.approx(0.2)
    assert (difference["reward"]["low"], difference["reward"]["high"]) == (None, None)  # paired: no spread, no interval
    assert difference["heldout"]["mean"] == pytest.approx(0.1)
    assert summary["pairs"][1] == {"classes": ["flat", "wall"], "heldout": {"base": 0.5, "aligned": 0.6}}
    lines = format_table(summary).splitlines()
    assert lines[0].split() == ["accuracy", "on", "3", "pairs", "reward", "images", "held-out", "images", "sentences"]
    assert lines[-1].split()[:4] == ["aligned", "-", "base", "+0.200"]
    assert all(len(line) <= 100 for line in lines)


def test_no_accuracy_is_beyond_all_and_none_of_the_images() -> None:
    base, aligned = PairScores("base", (0.0, 0.7), (1.0, 0.8), 4), PairScores("aligned", (1.0, 0.7), (0.9, 0.2), 4)
    summary = summarise([base, aligned], NAMES, [(0, 1), (0, 2)])
    for system in summary["systems"].values():
        assert all(0 <= system[images]["low"] < system[images]["high"] <= 1 for images in ("reward", "heldout"))
    (difference,) = summary["differences"].values()
    assert (difference["reward"]["low"], difference["reward"]["high"]) == (-1, 1)


def test_one_pair_has_no_interval() -> None:
    systems = [PairScores("base", (0.5,), (0.4,), 2), PairScores("aligned", (0.7,), (0.5,), 2)]
    table = format_table(summarise(systems, NAMES, [(0, 1)]))
    assert "+0.100 needs 2 pairs" in table
