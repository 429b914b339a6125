"""Class vectors, rankings with ties, accuracies: by hand, against loops, as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.zero_shot import vectors as classify
from ex2.zero_shot.vectors import (
    WEIGHTS,
    Predictions,
    TextSums,
    beside_name,
    choose_weight,
    class_vectors,
    evaluate,
    images_of,
    mean_nll,
    predict,
    ranked,
    share_by_class,
    zero_shot_by_class,
)


def units(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---------------------------------------------------------------- class vectors


def test_the_two_averages_by_hand() -> None:
    sums = TextSums.of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), [1, 1, 0], 2)
    assert sums.counts.tolist() == [1, 2]
    half = 2**-0.5
    assert sums.vectors().tolist() == [pytest.approx([0.6, 0.8]), pytest.approx([half, half])]
    assert sums.vectors("scores").tolist() == [pytest.approx([0.6, 0.8]), [0.5, 0.5]]


def test_the_average_of_scores_is_the_mean_of_the_cosines() -> None:
    texts, images, ids = units(6, 8), units(5, 8, seed=1), [0, 2, 2, 1, 0, 2]
    scores = images @ TextSums.of(texts, ids, 3).vectors("scores").T
    cosines = images @ texts.T
    for c in range(3):
        own = cosines[:, [i for i, class_id in enumerate(ids) if class_id == c]]
        assert scores[:, c].tolist() == pytest.approx(own.mean(dim=1).tolist(), abs=1e-6)


def test_class_vectors_are_normalised_means_or_templates() -> None:
    templates, texts, ids = units(4, 3), units(6, 3, seed=1), [2, 0, 2, 2, 0, 3]
    vectors = class_vectors(templates, texts, ids)
    for c in range(4):
        own = [text for text, class_id in zip(texts, ids, strict=True) if class_id == c]
        expected = templates[c] if not own else sum(own) / len(own)
        assert vectors[c].tolist() == pytest.approx((expected / expected.norm()).tolist(), abs=1e-6)
    assert 1 not in ids  # that class has its template's vector
    assert torch.allclose(class_vectors(templates, texts[:0], []), templates, atol=1e-6)


def test_a_template_that_stands_in_counts_as_one_text() -> None:
    templates = units(2, 3)
    filled = TextSums.of(units(2, 3, seed=1), [1, 1], 2).filled(templates)
    assert filled.counts.tolist() == [1, 2]
    assert torch.allclose(filled.vectors("scores")[0], templates[0])


# ---------------------------------------------------------------- rankings

FEW_VALUES = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-30, -1e-30, 0.25000003, 0.25])
ROWS = st.integers(1, 8).flatmap(lambda size: st.lists(st.lists(FEW_VALUES, min_size=size, max_size=size), min_size=1))


@given(ROWS, st.integers(1, 9))
def test_of_equal_scores_the_lower_class_goes_first(rows: list[list[float]], top: int) -> None:
    similarities = torch.tensor(rows)
    found = ranked(similarities, top)
    for row, ids, scores in zip(similarities.tolist(), found.class_ids.tolist(), found.scores.tolist(), strict=True):
        assert ids == sorted(range(len(row)), key=lambda c: (-row[c], c))[:top]
        assert scores == [row[c] for c in ids]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, images = units(4, 3), units(11, 3, seed=1)
    whole = predict(vectors, images, top=3)
    monkeypatch.setattr(classify, "_BLOCK", 8)  # two images at once
    parts = predict(vectors, images, top=3)
    assert torch.equal(parts.class_ids, whole.class_ids)
    assert torch.allclose(parts.scores, whole.scores, atol=1e-7)
    assert whole.class_ids.shape == (11, 3)
    assert predict(vectors, images).class_ids.shape == (11, 4)  # there are no five classes


def test_zero_shot_by_class_is_what_a_loop_counts() -> None:
    vectors, images = units(4, 3), units(50, 3, seed=1)
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(2))
    nearest = [max(range(4), key=[float(v @ image) for v in vectors].__getitem__) for image in images]
    own = [[k for k, label in zip(nearest, labels.tolist(), strict=True) if label == c] for c in range(4)]
    expected = [found.count(c) / len(found) for c, found in enumerate(own)]
    assert zero_shot_by_class(vectors, images, labels) == pytest.approx(expected)
    assert len(set(expected)) > 2  # the classes differ, so an order that is wrong would show
    assert zero_shot_by_class(vectors, vectors, torch.arange(4)).tolist() == [1.0] * 4


def test_a_class_without_images_has_no_accuracy() -> None:
    shares = share_by_class(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), 3)
    assert shares == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)


# ---------------------------------------------------------------- accuracies


def answers(*ids: int) -> Predictions:
    """Predictions of seven classes, the given ones most likely and the others in order."""
    rows = [[best, *(c for c in range(7) if c != best)] for best in ids]
    return Predictions(torch.tensor(rows)[:, :5], torch.zeros(len(ids), 5))


def test_nll_by_hand() -> None:
    vectors, images = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2 * (0.8 - 0.6)))
    assert mean_nll(vectors, images, torch.tensor([0, 1]), 2.0) == pytest.approx((first + second) / 2)
    many = images.repeat(200_000, 1)  # more than one block
    assert mean_nll(vectors, many, torch.tensor([0, 1]).repeat(200_000), 2.0) == pytest.approx(
        (first + second) / 2, rel=1e-4
    )


def test_weight_of_texts_beside_names() -> None:
    names, right = torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(beside_name(names, right, 1.0)[1], torch.tensor([0.8, 1.6]) / math.sqrt(0.8**2 + 1.6**2))
    images, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert choose_weight(names, right, images, labels, 10.0) == max(WEIGHTS)
    assert choose_weight(names, right.flip(0), images, labels, 10.0) == min(WEIGHTS)


def test_accuracy_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 6])
    template, system = answers(0, 0, 0, 1, 1, 0, 6), answers(0, 0, 0, 0, 0, 0, 5)
    result = evaluate("mine", system, template, labels)
    assert (result.fixed, result.broken, result.n, result.classes) == (1, 2, 7, 3)
    assert result.top1 == pytest.approx(4 / 7)
    assert result.top5 == pytest.approx(6 / 7)  # class 6 is the last of seven
    # Every class counts equally: 1, 0 and 0 against 3/4, 1/2 and 1.
    assert result.per_class.mean == pytest.approx(1 / 3)
    assert result.gain.mean == pytest.approx((1 / 4 - 1 / 2 - 1) / 3)
    assert (result.gain.low, result.gain.high) == (-1.0, 1.0)  # three classes tell nothing, and no change is larger
    row = result.row()
    assert (row["system"], row["per_class_mean"], row["gain_high"]) == ("mine", result.per_class.mean, result.gain.high)
    itself = evaluate("template", template, template, labels)
    assert (itself.gain.mean, itself.fixed, itself.broken) == (0.0, 0, 0)
    assert math.isnan(itself.gain.low)  # no spread, no interval


def test_intervals_do_not_narrow_with_more_images_of_the_same_classes() -> None:
    labels, right, wrong = torch.tensor([0, 1, 2]), answers(0, 1, 2), answers(0, 1, 3)
    few = evaluate("x", wrong, right, labels).per_class
    many = Predictions(wrong.class_ids.repeat(50, 1), wrong.scores.repeat(50, 1))
    assert evaluate("x", many, many, labels.repeat(50)).per_class == few


def test_one_class_has_no_interval() -> None:
    with pytest.raises(UserError, match="at least two classes"):
        evaluate("x", answers(0, 0), answers(0, 0), torch.tensor([0, 0]))


def test_a_split_without_images_is_refused() -> None:
    bank = ImageBank(("a",), torch.eye(2), torch.tensor([0, 0]), torch.tensor([0, 1]), ("x", "y"), "table", "0", "mine")
    images, labels = images_of(bank, "heldout")
    assert images.tolist() == [[0.0, 1.0]]
    assert labels.tolist() == [0]
    with pytest.raises(UserError, match="split 'validation': mine has no such images; use heldout or reward"):
        images_of(bank, "validation")
