"""FuDD against a plain loop over images (the one that benchmarks/fudd_speed.py times), ties included; the gate by brute force."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ex2.base.errors import UserError
from ex2.texts.pairs import PairText, PairTexts
from ex2.zero_shot import follow_up as fudd
from ex2.zero_shot.follow_up import PairSums, choose_gate, follow_up, gated, margins, pair_sums
from ex2.zero_shot.vectors import Predictions, TextSums, predict


def _load_benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
        return importlib.import_module("fudd_speed")


reference = _load_benchmark().reference


def summed(pairs: PairTexts, templates: Tensor, embedding: Mapping[str, Tensor]) -> PairSums:
    def sums_of(texts: Sequence[str], groups: Sequence[int], count: int) -> TextSums:
        vectors = torch.stack([embedding[text] for text in texts]) if texts else templates[:0]
        return TextSums.of(vectors, groups, count)

    return pair_sums(pairs, templates, sums_of)


def some_pairs(classes: int, seed: int, most: int) -> PairTexts:
    """A random half of all pairs, each with 1 to `most` sentences about each class; some come back in other pairs of a class."""
    draw = random.Random(seed)

    def sentence(about: int, against: int, n: int) -> str:
        return f"{about}: {draw.randint(0, 3)}" if draw.random() < 0.4 else f"{about} and not {against}: {n}"

    pairs = {
        (i, j): tuple(PairText("", (sentence(i, j, n), sentence(j, i, n))) for n in range(draw.randint(1, most)))
        for i in range(classes)
        for j in range(i + 1, classes)
        if draw.random() < 0.5
    }
    return PairTexts(tuple(map(str, range(classes))), pairs)


def embed(pairs: PairTexts, vectors: Tensor) -> dict[str, Tensor]:
    """Each sentence of `pairs` with a row of `vectors`, which are used again where they are too few."""
    texts = [text for _, own in sorted(pairs.about().items()) for text in own]
    return {text: vectors[n % len(vectors)] for n, text in enumerate(texts)}


def agree(found: Predictions, expected: list[list[tuple[int, float]]], k: int, tolerance: float) -> None:
    for ids, scores, answer in zip(found.class_ids.tolist(), found.scores.tolist(), expected, strict=True):
        own = dict(answer)
        shown = min(k, len(ids))
        assert len(set(ids)) == len(ids)
        for class_id, score in zip(ids[:shown], scores[:shown], strict=True):
            assert score == pytest.approx(own[class_id], abs=tolerance)
        # The order is the reference's wherever its scores differ by more than rounding.
        for place, (class_id, _) in enumerate(answer[:shown]):
            assert ids[place] == class_id or abs(own[ids[place]] - own[class_id]) <= 2 * tolerance
        assert all(math.isnan(score) for score in scores[shown:])


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.data(), st.integers(0, 10_000))
def test_fudd_is_what_a_loop_over_images_finds(classes: int, images: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(2, classes))
    generator = torch.Generator().manual_seed(seed)

    def units(count: int) -> Tensor:
        return normalize(torch.randn(count, 24, generator=generator), dim=1)

    shown, templates, pairs = units(images), units(classes), some_pairs(classes, seed, most=4)
    embedding = embed(pairs, units(500))
    sums = summed(pairs, templates, embedding)
    found = follow_up(predict(templates, shown, max(5, k)), shown, sums, k)
    assert found.class_ids.shape == (images, min(5, classes))
    agree(found, reference(shown, templates, pairs.about(), embedding, k), k, 1e-6)


@settings(deadline=None)
@given(st.sampled_from([2, 3, 5]), st.integers(5, 8), st.integers(0, 10_000))
def test_ties_go_to_the_lower_class_as_in_the_loop(k: int, classes: int, seed: int) -> None:
    # Vectors along three axes, one sentence a pair, K - 1 a power of two: every sum and mean is exact, so that equal scores
    # are equal to the last bit, and most scores are equal to some other.
    generator = torch.Generator().manual_seed(seed)

    def axes(count: int) -> Tensor:
        return torch.eye(3)[torch.randint(0, 3, (count,), generator=generator)]

    # All different, and of all pairs.
    shown, templates = axes(10), axes(classes)
    ordered = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    pairs = PairTexts(
        tuple(map(str, range(classes))), {(i, j): (PairText("", (f"{i}/{j}", f"{j}/{i}")),) for i, j in ordered}
    )
    embedding = embed(pairs, axes(100))
    sums = summed(pairs, templates, embedding)
    found = follow_up(predict(templates, shown, max(5, k)), shown, sums, k)
    expected = reference(shown, templates, pairs.about(), embedding, k)
    assert found.class_ids[:, :k].tolist() == [[class_id for class_id, _ in answer] for answer in expected]


def test_by_hand() -> None:
    templates = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    embedding = {
        "0 not 1": torch.tensor([0.0, 1.0]),
        "1 not 0": torch.tensor([1.0, 0.0]),
        "1 not 0 again": torch.tensor([0.8, 0.6]),
        "0 not 1 again": torch.tensor([0.0, 1.0]),
    }
    texts = (PairText("color", ("0 not 1", "1 not 0")), PairText("size", ("0 not 1 again", "1 not 0 again")))
    sums = summed(PairTexts(("a", "b", "c"), {(0, 1): texts}), templates, embedding)
    assert sums.coverage == pytest.approx(1 / 3)
    image = torch.tensor([[1.0, 0.0]])
    first = predict(templates, image)
    assert first.class_ids.tolist() == [[0, 1, 2]]

    two = follow_up(first, image, sums, 2)
    # Class 0 has (0, 1), class 1 the mean of (1, 0) and (0.8, 0.6), which is (0.9, 0.3); class 2 was no candidate.
    assert two.class_ids.tolist() == [[1, 0, 2]]
    assert two.scores[0, :2].tolist() == pytest.approx([0.9 / math.hypot(0.9, 0.3), 0.0])
    assert two.scores[0, 2].isnan()

    three = follow_up(first, image, sums, 3)
    # The pairs with class 2 lack sentences: the template is one sentence more, and for class 2 the only one.
    expected = {0: 1 / math.hypot(1, 2), 1: 2.6 / math.hypot(2.6, 1.2), 2: 0.0}
    assert three.class_ids.tolist() == [[1, 0, 2]]
    assert three.scores[0].tolist() == pytest.approx([expected[i] for i in (1, 0, 2)])


def test_a_sentence_that_several_pairs_have_counts_once() -> None:
    templates = torch.eye(3)
    embedding = {text: normalize(torch.tensor([vector]), dim=1)[0] for text, vector in {
        "0 again and again": [1.0, 0.0, 0.0], "0 not 1": [0.0, 1.0, 0.0], "1": [0.0, 1.0, 1.0], "2": [0.0, 0.0, 1.0],
    }.items()}  # fmt: skip
    pairs = {
        (0, 1): (PairText("", ("0 again and again", "1")), PairText("", ("0 not 1", "1"))),
        (0, 2): (PairText("", ("0 again and again", "2")), PairText("", ("0 again and again", "2"))),
    }
    sums = summed(PairTexts(("a", "b", "c"), pairs), templates, embedding)
    image = normalize(torch.tensor([[3.0, 2.0, 1.0]]), dim=1)
    found = follow_up(predict(templates, image), image, sums, 2)
    assert found.scores[0, 0] == pytest.approx(5 / math.sqrt(14) / math.sqrt(2))  # (1, 1, 0): class 0 against 1
    assert found.class_ids.tolist() == [[0, 1, 2]]
    assert torch.allclose(
        sums.vectors()[0], normalize(torch.tensor([1.0, 1.0, 0.0]), dim=0)
    )  # against both: no more of it
    assert torch.allclose(
        sums.vectors()[1], normalize(torch.tensor([0.0, 1.0 + 0.5**0.5, 0.5**0.5]), dim=0)
    )  # and template


def test_without_sentences_the_template_decides() -> None:
    generator = torch.Generator().manual_seed(0)
    templates, images = (
        normalize(torch.randn(6, 8, generator=generator)),
        normalize(torch.randn(9, 8, generator=generator)),
    )
    sums = summed(PairTexts(tuple("abcdef"), {}), templates, {})
    assert sums.coverage == 0
    first = predict(templates, images)
    for k in (2, 4, 6):
        found = follow_up(first, images, sums, k)
        assert torch.equal(found.class_ids, first.class_ids)
        assert torch.allclose(found.scores[:, : min(k, 5)], first.scores[:, : min(k, 5)], atol=1e-6)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    templates, images = (
        normalize(torch.randn(7, 8, generator=generator)),
        normalize(torch.randn(9, 8, generator=generator)),
    )
    pairs = some_pairs(7, 0, most=3)
    sums = summed(pairs, templates, embed(pairs, normalize(torch.randn(100, 8, generator=generator))))
    first = predict(templates, images)
    before = images.clone()
    whole = follow_up(first, images, sums, 4)
    monkeypatch.setattr(fudd, "_BLOCK", 5)
    parts = follow_up(first, images, sums, 4)
    assert torch.equal(whole.class_ids, parts.class_ids)
    assert torch.equal(images, before)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_candidates_out_of_range_are_refused(k: int) -> None:
    templates = torch.eye(3)
    sums = summed(PairTexts(tuple("abc"), {}), templates, {})
    with pytest.raises(UserError, match=f"k: {k} candidates are out of range; the dataset has 3 classes: give 2 to 3"):
        follow_up(predict(templates, templates), templates, sums, k)


# ---------------------------------------------------------------- gate


def two_classes(margin: Sequence[float], answers: Sequence[int]) -> Predictions:
    ids = torch.tensor([[answer, 1 - answer] for answer in answers])
    return Predictions(ids, torch.tensor([[gap, 0.0] for gap in margin]))


CASES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75]), *[st.integers(0, 1)] * 3), min_size=2, max_size=12
).filter(lambda cases: len({label for *_, label in cases}) == 2)


@given(CASES)
def test_the_gate_is_the_best_of_all(cases: list[tuple[float, int, int, int]]) -> None:
    gaps, before, after, classes = zip(*cases, strict=True)
    labels = torch.tensor(classes)
    first, second = two_classes(gaps, before), two_classes(gaps, after)

    def accuracy(threshold: float) -> float:
        right = gated(first, second, threshold).correct(labels).double()
        return float(torch.stack([right[labels == c].mean() for c in (0, 1)]).mean())

    possible = [*sorted(set(gaps)), math.inf]
    best = max(accuracy(threshold) for threshold in possible)
    # The largest of the best, which leaves most images to FuDD.
    expected = max(threshold for threshold in possible if accuracy(threshold) >= best - 1e-9)
    assert choose_gate(first, second, labels) == expected


def test_a_gate_keeps_clear_answers_only() -> None:
    first, second = two_classes([0.5, 0.25], [0, 0]), two_classes([0.1, 0.2], [1, 1])
    assert margins(first).tolist() == [0.5, 0.25]
    found = gated(first, second, 0.5)
    assert found.class_ids.tolist() == [[0, 1], [1, 0]]
    assert found.scores[:, 0].tolist() == pytest.approx([0.5, 0.2])
    assert gated(first, second, math.inf).class_ids.tolist() == second.class_ids.tolist()
