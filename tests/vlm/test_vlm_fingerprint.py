"""Digests of weights, configurations and tokenizers."""

from __future__ import annotations

from typing import Any

import torch

from ex2.vlm.fingerprint import describe_tokenizer, model_fingerprint, stable_config


def test_order_of_weights_and_of_descriptions_does_not_count() -> None:
    first, second = torch.arange(3.0), torch.ones(2, dtype=torch.bfloat16)
    digest = model_fingerprint({"a": first, "b": second}, {"x": 1, "y": 2})
    assert digest == model_fingerprint({"b": second, "a": first}, {"y": 2, "x": 1})
    assert len(digest) == 64


def test_name_dtype_shape_value_and_description_count() -> None:
    weight = torch.zeros(4)
    variants = [
        model_fingerprint({"a": weight}, {}),
        model_fingerprint({"b": weight}, {}),
        model_fingerprint({"a": weight.half()}, {}),
        model_fingerprint({"a": weight.to(torch.int32)}, {}),
        model_fingerprint({"a": weight.reshape(2, 2)}, {}),
        model_fingerprint({"a": weight + 1e-7}, {}),
        model_fingerprint({"a": weight}, {"mean": 0.5}),
    ]
    assert len(set(variants)) == len(variants)


def test_memory_layout_does_not_count_and_any_layout_is_read() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    transposed = weight.T.contiguous().T
    assert not transposed.is_contiguous()
    assert model_fingerprint({"a": weight}, {}) == model_fingerprint({"a": transposed}, {})
    assert model_fingerprint({"a": torch.tensor(1.0)}, {}) != model_fingerprint({"a": torch.empty(0)}, {})


def test_where_a_configuration_came_from_does_not_count() -> None:
    config = {"_name_or_path": "/a", "heads": 2, "text": {"dtype": "float32", "layers": 3}, "list": ({"auto_map": 1},)}
    assert stable_config(config) == {"heads": 2, "text": {"layers": 3}, "list": [{}]}


class _Pieces:
    def __init__(self, model: bytes) -> None:
        self.model = model

    def serialized_model_proto(self) -> bytes:
        return self.model


class _SentencePiece:
    """As much of a tokenizer without a `tokenizers` back end (SigLIP 1) as its description reads."""

    padding_side = truncation_side = "right"
    model_input_names = ("input_ids",)
    do_lower_case = True

    def __init__(self, vocabulary: dict[str, int], model: bytes) -> None:
        self.special_tokens_map = {"eos_token": "</s>"}
        self.vocabulary = vocabulary
        self.sp_model = _Pieces(model)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary


def test_sentencepiece_tokenizer_is_told_apart_by_vocabulary_and_model() -> None:
    def describe(*arguments: Any) -> dict[str, Any]:
        tokenizer: Any = _SentencePiece(*arguments)
        return describe_tokenizer(tokenizer)

    assert describe({"a": 0}, b"x") == describe({"a": 0}, b"x")
    assert describe({"a": 0}, b"x") != describe({"a": 1}, b"x")
    assert describe({"a": 0}, b"x") != describe({"a": 0}, b"y")
