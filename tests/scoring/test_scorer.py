"""TextScorer encodes each text once, and its cosines are those worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.texts.questions import completion_text
from ex2.texts.readings import NAMELESS, Reading


class CountingVLM:
    """A text encoder on two dimensions: the angle of a text is its length in degrees. Remembers what it was asked."""

    name = "counting"
    device = torch.device("cpu")
    logit_scale = 100.0
    max_text_tokens = 3

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        self.calls.append(list(texts))
        angles = torch.tensor([math.radians(len(text)) for text in texts])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.fixture
def vlm() -> CountingVLM:
    return CountingVLM()


@pytest.fixture
def bank() -> ImageBank:
    """Two classes: images at 0 degrees (reward) and 60 degrees (held out); at 90 and 30 degrees."""
    angles = torch.tensor([0.0, 60.0, 90.0, 30.0]).deg2rad()
    return ImageBank(
        class_names=("flat", "steep"),
        embeddings=torch.stack([angles.cos(), angles.sin()], dim=1),
        labels=torch.tensor([0, 0, 1, 1]),
        split_ids=torch.tensor([0, 1, 0, 1]),
        image_ids=("a", "b", "c", "d"),
        vlm_name="counting",
        vlm_fingerprint="0",
        dataset="angles",
    )


@pytest.fixture
def scorer(vlm: CountingVLM, bank: ImageBank) -> TextScorer:
    return TextScorer(vlm, bank)


def test_completion_text() -> None:
    assert completion_text("  a\n\ntall\t bird ") == "a tall bird"
    assert completion_text([{"role": "assistant", "content": " a bird\n"}]) == "a bird"
    turns = [{"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert completion_text(turns) == "two"


def test_similarities_by_hand(scorer: TextScorer) -> None:
    texts = ["x" * 60, "x" * 30]
    half, root = 0.5, math.sqrt(3) / 2  # cos 60 and cos 30 degrees
    torch.testing.assert_close(scorer.similarities(texts), torch.tensor([[half, root], [root, half]]))
    torch.testing.assert_close(scorer.similarities(texts, "heldout"), torch.tensor([[1.0, root], [root, 1.0]]))
    torch.testing.assert_close(scorer.cosine(texts, [1, 0]), torch.tensor([root, root]))
    torch.testing.assert_close(scorer.cosine(texts, [1, 0], split="heldout"), torch.tensor([root, root]))


def test_equal_texts_are_encoded_once_and_keep_their_order(scorer: TextScorer, vlm: CountingVLM) -> None:
    texts = ["bb", "a", "bb", "ccc", "a"]
    embeddings = scorer.embed(texts)
    assert vlm.calls == [["bb", "a", "ccc"]]
    assert scorer.texts_encoded == 3
    torch.testing.assert_close(embeddings, CountingVLM().encode_texts(texts))


def test_latest_batches_are_remembered(scorer: TextScorer, vlm: CountingVLM) -> None:
    scorer.cosine(["a", "bb"], [0, 1])
    scorer.similarities(["a", "bb"])
    scorer.cosine(("a", "bb"), [1, 1], split="heldout")
    assert len(vlm.calls) == 1
    scorer.embed(["bb", "a"])  # another order is another batch
    scorer.embed(["a", "bb"])
    assert len(vlm.calls) == 2
    assert scorer.texts_encoded == 4


def test_the_four_latest_batches_are_kept(scorer: TextScorer, vlm: CountingVLM) -> None:
    for text in ("a", "b", "c", "d", "a", "e", "a", "b"):  # b is the one that was not asked for since e came
        scorer.embed([text])
    assert [text for (text,) in vlm.calls] == ["a", "b", "c", "d", "e", "b"]


def test_readings_of_a_cosine_by_hand(scorer: TextScorer) -> None:
    cosine = {n: math.cos(math.radians(n)) for n in range(90)}  # the images of flat lie at 0 degrees
    text = "A flat thing"
    assert scorer.cosine([text], [0]).item() == pytest.approx(cosine[12])
    assert scorer.cosine([text], [0], reading=NAMELESS).item() == pytest.approx(cosine[len("it thing")])
    framed = cosine[len("flat: it thing.")] - cosine[len("flat.")]
    assert scorer.cosine([text], [0], reading=Reading.of(["framed"])).item() == pytest.approx(framed, abs=1e-6)
    mixed = Reading.of(["as_written", "nameless"], [0.25, 0.75])
    assert scorer.cosine([text], [0], reading=mixed).item() == pytest.approx(0.25 * cosine[12] + 0.75 * cosine[8])


def test_embeddings_that_are_not_finite_are_refused(scorer: TextScorer, vlm: CountingVLM) -> None:
    vlm.encode_texts = lambda texts, batch_size=256: torch.full((len(texts), 2), math.nan)
    message = "^vlm counting: the embedding of the text 'a bird' is not finite; load the VLM with vlm_dtype=float32"
    with pytest.raises(UserError, match=message):
        scorer.embed(["a bird"])
