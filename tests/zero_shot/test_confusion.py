"""Which pairs of classes a VLM confuses, by hand and on the embedded pictograms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.vlm import VLM
from ex2.zero_shot.confusion import ConfusedPair, check_pair_count, confused_pairs, most_confused, nearer_share
from ex2.zero_shot.pair_accuracy import name_texts, score_pairs


def test_by_hand() -> None:
    similarities = torch.tensor(
        [
            [0.5, 0.7, 0.1],  # class 0, nearer to text 1
            [0.6, 0.2, 0.2],
            [0.4, 0.4, 0.3],  # a tie with 1: half an error
            [0.1, 0.5, 0.2],  # class 1
            [0.0, 0.1, 0.7],  # class 2
        ]
    )
    first, second, third = most_confused(similarities, torch.tensor([0, 0, 0, 1, 2]), 3)
    # Class 0 against 1: (1 + 0 + 1/2) / 3 of its images, none of class 1's; margins (-0.2 + 0.4 + 0) / 3 and 0.4.
    assert first == ConfusedPair((0, 1), pytest.approx(0.25), pytest.approx((0.2 / 3 + 0.4) / 2))
    # Without any error the smaller margin comes first: (0.3 + 0.6) / 2 for 1 and 2; ((0.4 + 0.4 + 0.1) / 3 + 0.7) / 2.
    assert second == ConfusedPair((1, 2), 0.0, pytest.approx(0.45))
    assert third == ConfusedPair((0, 2), 0.0, pytest.approx(0.5))
    assert most_confused(similarities, torch.tensor([0, 0, 0, 1, 2]), 1) == [first]


def test_ties_count_half() -> None:
    assert nearer_share(torch.tensor([0.3, -0.1, 0.0, 0.0])).item() == 0.5
    assert nearer_share(torch.tensor([[0.3, 0.0], [0.2, -1.0]])).tolist() == [1.0, 0.25]


@given(st.integers(2, 5), st.integers(0, 10_000))
def test_every_pair_has_its_place_and_renaming_classes_changes_nothing(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (7,), generator=generator)])
    similarities = torch.rand(len(labels), classes, generator=generator)
    count = classes * (classes - 1) // 2
    pairs = most_confused(similarities, labels, count)
    assert len({pair.classes for pair in pairs}) == count
    assert all(0 <= pair.error <= 1 and i < j for pair in pairs for i, j in [pair.classes])
    order = torch.randperm(classes, generator=generator)  # new class n is old class order[n]
    renamed = most_confused(similarities[:, order], order.argsort()[labels], count)
    back = [tuple(sorted(order[list(pair.classes)].tolist())) for pair in renamed]
    assert back == [pair.classes for pair in pairs]


def test_the_error_is_what_the_template_gets_wrong(pictogram_vlm: VLM, pictogram_bank: ImageBank) -> None:
    scorer = TextScorer(pictogram_vlm, pictogram_bank)
    found = confused_pairs(scorer, 12)
    pairs = [pair.classes for pair in found]
    template = score_pairs("template", scorer, name_texts(pictogram_bank.class_names, pairs), pairs)
    assert [1 - pair.error for pair in found] == pytest.approx(template.reward)
    assert [pair.error for pair in found] == sorted((pair.error for pair in found), reverse=True)
    assert found[:5] == confused_pairs(scorer, 5)


def test_more_pairs_than_there_are() -> None:
    check_pair_count(6, 4)
    with pytest.raises(UserError, match=r"^pairs=7 is more than there are: 4 classes make 6 pairs\.$"):
        check_pair_count(7, 4)
    with pytest.raises(UserError, match=r"^--most 1 is more than there are: 1 classes make 0 pairs\.$"):
        check_pair_count(1, 1, "--most ")
