"""What a VLM has to show when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ex2.base.errors import UserError
from ex2.vlm.hf import _positions
from ex2.vlm.self_test import check_vlm

Spoil = Callable[[Sequence[Any], Tensor, int], Tensor]
"""From items, their sound embeddings and the batch size: the faulty ones."""


class Encoder:
    """Embeds a text by its letters and a picture by its pixels; `texts` and `images` spoil that."""

    name, dim, logit_scale, logit_bias = "broken", 4, 14.3, 0.0
    max_text_tokens: Any = 10

    def __init__(self, texts: Spoil | None = None, images: Spoil | None = None, **more: Any) -> None:
        self._texts, self._images = texts, images
        self.__dict__ |= more

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        read = [text.split()[: self.max_text_tokens] for text in texts]
        rows = normalize(torch.tensor([[len(t), str(t).count("a"), str(t).count("o"), 1.0] for t in read]), dim=1)
        return self._texts(texts, rows, batch_size) if self._texts else rows

    def encode_images(self, images: Sequence[Any], batch_size: int = 64) -> Tensor:
        rows = torch.tensor([[*image.getpixel((0, 0)), 1.0] for image in images])
        return self._images(images, normalize(rows, dim=1), batch_size) if self._images else normalize(rows, dim=1)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


def check(encoder: Any, dtype: torch.dtype = torch.float32) -> None:
    check_vlm(encoder, dtype)


def test_a_sound_encoder_passes() -> None:
    check(Encoder())


def empty(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[not text] for text in texts])


def without_letters(texts: Sequence[str], rows: Tensor, _: int) -> Tensor:
    if not all(map(str.isascii, texts)):
        raise KeyError("<unk>")
    return rows


def without_positions(texts: Sequence[str], rows: Tensor, _: int) -> Tensor:
    if max(len(text.split()) for text in texts) > 8:
        raise IndexError("index out of range in self")
    return rows


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_positions, r"it cannot encode texts \(IndexError: index out of range in self\)"),
        (without_letters, r"it cannot encode texts \(KeyError: '<unk>'\)"),
        (lambda texts, rows, n: rows + (n > 1) * 0.1, r"the embedding of .* is no unit vector"),
        (lambda texts, rows, n: rows.flip(0) if n > 1 else rows, r"one text depends on the texts beside it \(by 0"),
        (lambda texts, rows, n: normalize(rows + torch.rand(4)), r"one text is another each time .*: it draws at random"),
        (lambda texts, rows, n: rows.masked_fill(empty(texts), torch.nan), r"the embedding of the text '' is not finite"),
        (lambda texts, rows, n: rows * 2, r"the embedding of the text 'a cat 猫' is no unit vector"),
        (lambda texts, rows, n: rows[:, :3], r"embeddings of 6 texts have the shape \(6, 3\), not \(6, 4\)"),
        (lambda texts, rows, n: rows[:1].expand(6, 4), r"the text 'a cat 猫' and the text 'a dog 犬' have the same embedding"),
    ],
)  # fmt: skip
def test_a_faulty_text_tower_is_one_line(spoil: Spoil, message: str) -> None:
    begin = r"^vlm 'broken' fails its self-test with .* texts \(it says that it reads 10 tokens\) and two images: .*"
    with pytest.raises(UserError, match=begin + message):
        check(Encoder(spoil))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda images, rows, n: rows.flip(0) if n > 1 else rows, "one image depends on the images beside it"),
        (lambda images, rows, n: rows * torch.inf, "the embedding of image 1 is not finite: are its weights and"),
        (lambda images, rows, n: rows[:, :3], r"embeddings of 2 images have the shape \(2, 3\), not \(2, 4\)"),
        (lambda images, rows, n: torch.full_like(rows, 0.5), "image 1 and image 2 have the same embedding"),
    ],
)
def test_a_faulty_image_tower_is_one_line(spoil: Spoil, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Encoder(images=spoil))


def test_half_precision_that_overflows_names_the_cure() -> None:
    with pytest.raises(UserError, match="is not finite: load it with dtype float32"):
        check(Encoder(lambda texts, rows, n: rows * torch.nan), torch.float16)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"max_text_tokens": 0}, "says that it reads 0 tokens of a text, which is no whole number above 0"),
        ({"max_text_tokens": 7.5}, r"says that it reads 7\.5 tokens"),
        ({"max_text_tokens": 1}, "the text 'a cat 猫' and the text 'a dog 犬' have the same embedding"),
        ({"logit_scale": float("inf")}, "has a logit scale of inf and a bias of 0: its weights are damaged"),
        ({"logit_bias": float("nan")}, r"has a logit scale of 14\.3 and a bias of nan"),
        ({"count_tokens": lambda texts: [10] * len(texts)}, "it counts 10 tokens in a text that is longer"),
        ({"count_tokens": lambda texts: [][0]}, r"it cannot count their tokens \(IndexError: "),
    ],
)
def test_a_length_a_count_or_a_scale_that_is_none_is_one_line(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Encoder(**fault))


def test_roberta_has_fewer_positions_than_it_says_and_some_have_no_limit() -> None:
    roberta = SimpleNamespace(model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1)
    assert _positions(roberta, 10**30) == 512
    assert _positions(SimpleNamespace(model_type="bert", max_position_embeddings=512, pad_token_id=0), 10**30) == 512
    assert _positions(SimpleNamespace(model_type="t5"), 10**30) == 512
    assert _positions(SimpleNamespace(model_type="t5"), 64) == 64
