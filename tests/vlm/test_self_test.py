"""What a VLM has to show when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from ex2.base.errors import UserError
from ex2.vlm.hf import _positions
from ex2.vlm.self_test import check_vlm


class Encoder:
    """Embeds a text by its letters, a picture by its mean; `fault` spoils it."""

    name, dim, max_text_tokens = "broken", 4, 10

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        if self.fault == "positions" and max(len(text.split()) for text in texts) > 8:
            raise IndexError("index out of range in self")
        rows = torch.tensor([[len(text), text.count("a"), text.count("o"), 1.0] for text in texts])
        if self.fault == "letters" and not all(map(str.isascii, texts)):
            raise KeyError("<unk>")
        if self.fault == "batch" and batch_size > 1:
            rows = rows + rows.mean(dim=0)
        if self.fault == "finite":
            rows = rows * torch.nan
        return rows if self.fault == "norm" else normalize(rows, dim=1)[:, : 3 if self.fault == "shape" else 4]

    def encode_images(self, images: Sequence[Any], batch_size: int = 64) -> torch.Tensor:
        return torch.ones(len(images), 4) / 2


def test_a_sound_encoder_passes() -> None:
    check_vlm(Encoder(), torch.float32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("positions", r"it cannot encode them \(IndexError: index out of range in self\)"),
        ("letters", r"it cannot encode them \(KeyError: '<unk>'\)"),
        ("batch", r"the embedding of a text depends on the texts beside it"),
        ("finite", r"the embedding of a text is no unit vector; where it is not finite, load it with dtype float32"),
        ("norm", r"the embedding of a text is no unit vector"),
        ("shape", r"embeddings of 3 texts and an image have the shapes \(3, 3\) and \(1, 4\)"),
    ],
)
def test_a_fault_is_one_line(fault: str, message: str) -> None:
    with pytest.raises(
        UserError, match=rf"^vlm 'broken' fails its self-test with two texts, .*reads 10 tokens.*: {message}"
    ):
        check_vlm(Encoder(fault), torch.float32)  # type: ignore[arg-type]


def test_roberta_has_fewer_positions_than_it_says_and_some_have_no_limit() -> None:
    roberta = SimpleNamespace(model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1)
    assert _positions(roberta, 10**30) == 512
    assert _positions(SimpleNamespace(model_type="bert", max_position_embeddings=512, pad_token_id=0), 10**30) == 512
    assert _positions(SimpleNamespace(model_type="t5"), 10**30) == 512
    assert _positions(SimpleNamespace(model_type="t5"), 64) == 64
