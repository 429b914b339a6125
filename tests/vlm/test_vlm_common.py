"""What holds for every back end: norms, order, batching, eval mode, release, fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ex2.vlm import VLM, load_vlm

KINDS = [
    "hf:clip",
    "hf:align",
    "hf:siglip",
    "hf:siglip2",
    "open_clip:clip",
    "open_clip:custom",
    "open_clip:siglip",
    "open_clip:coca",
]
DIMS = {"hf:clip": 24, "hf:align": 32, "hf:siglip": 32, "hf:siglip2": 32} | dict.fromkeys(KINDS[4:], 12)


def spec_of(kind: str, hf_folders: dict[str, Path], open_clip_folders: dict[str, Path]) -> str:
    library, _, name = kind.partition(":")
    return f"hf:{hf_folders[name]}" if library == "hf" else f"open_clip:local-dir:{open_clip_folders[name]}"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def spec(kind: str, hf_folders: dict[str, Path], open_clip_folders: dict[str, Path]) -> str:
    return spec_of(kind, hf_folders, open_clip_folders)


@pytest.fixture(scope="module")
def vlm(spec: str) -> Any:
    """Shared by the tests of a kind, which must leave it as it is."""
    return load_vlm(spec)


def test_fulfils_the_protocol(vlm: Any, spec: str, kind: str) -> None:
    assert isinstance(vlm, VLM)
    assert vlm.name == spec
    assert vlm.dim == DIMS[kind]
    assert vlm.device == torch.device("cpu")


def test_unit_rows_without_gradient_repeatable(
    vlm: Any, kind: str, images: list[Image.Image], texts: list[str]
) -> None:
    for encode, items in ((vlm.encode_images, images), (vlm.encode_texts, texts)):
        first, second = encode(items), encode(items)
        assert first.shape == (len(items), DIMS[kind])
        assert first.dtype == torch.float32
        assert not first.requires_grad
        assert not first.is_inference()
        assert torch.allclose(first.norm(dim=1), torch.ones(len(items)), atol=1e-5)
        assert torch.equal(first, second)  # dropout is configured in every model


def test_order_and_batch_size_do_not_matter(vlm: Any, images: list[Image.Image], texts: list[str]) -> None:
    for encode, items in ((vlm.encode_images, images), (vlm.encode_texts, texts)):
        together = encode(items)
        singly = torch.cat([encode([item]) for item in items])
        assert torch.allclose(together, singly, atol=1e-5)
        assert torch.allclose(encode(items, batch_size=3), singly, atol=1e-5)
        assert torch.allclose(encode(items[::-1]), singly.flip(0), atol=1e-5)


def test_nothing_in_nothing_out(vlm: Any, kind: str) -> None:
    assert vlm.encode_images([]).shape == (0, DIMS[kind])
    assert vlm.encode_texts([]).shape == (0, DIMS[kind])
    assert vlm.count_tokens([]) == []
    assert vlm.encode_texts([""]).isfinite().all()


def test_batch_size_of_zero_is_refused(vlm: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        vlm.encode_texts(["a"], batch_size=0)


def test_long_text_is_cut_and_counted(vlm: Any) -> None:
    long = "abcdefghijkl " * 30
    count = vlm.count_tokens([long])[0]
    assert count > vlm.max_text_tokens
    assert torch.allclose(vlm.encode_texts([long]), vlm.encode_texts([long + "and more"]), atol=1e-6)
    assert vlm.count_tokens(["ab cd", long]) == [vlm.count_tokens(["ab cd"])[0], count]


def test_white_background_under_transparency(vlm: Any) -> None:
    hidden = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = Image.new("RGB", (16, 16), "white")
    assert torch.allclose(vlm.encode_images([hidden]), vlm.encode_images([white]), atol=1e-6)


def test_half_precision_still_gives_float32_unit_rows(spec: str, texts: list[str], images: list[Image.Image]) -> None:
    full, half = load_vlm(spec), load_vlm(spec, dtype="bfloat16")
    assert half.logit_scale == full.logit_scale
    assert half.fingerprint != full.fingerprint
    for encoded, reference in (
        (half.encode_texts(texts), full.encode_texts(texts)),
        (half.encode_images(images), full.encode_images(images)),
    ):
        assert encoded.dtype == torch.float32
        assert torch.allclose(encoded.norm(dim=1), torch.ones(len(encoded)), atol=1e-5)
        assert (encoded * reference).sum(dim=1).min() > 0.97


def test_release_of_the_image_tower(vlm: Any, spec: str, images: list[Image.Image], texts: list[str]) -> None:
    released: Any = load_vlm(spec)
    released.release_image_tower()
    released.release_image_tower()
    before, after = (sum(weight.numel() for weight in model._model.parameters()) for model in (vlm, released))
    assert after < before
    assert torch.equal(released.encode_texts(texts), vlm.encode_texts(texts))
    assert released.fingerprint == vlm.fingerprint
    with pytest.raises(RuntimeError, match=r"image tower of .* was released: load the VLM again"):
        released.encode_images(images)


def test_fingerprint_is_stable_and_follows_every_weight(vlm: Any, spec: str, texts: list[str]) -> None:
    same: Any = load_vlm(spec)
    same.encode_texts(texts)  # calls change the tokenizer's padding and truncation state
    assert same.fingerprint == vlm.fingerprint
    assert len(vlm.fingerprint) == 64
    names = [name for name, _ in same._model.named_parameters()]
    for name in (names[0], names[-1]):
        del same.fingerprint  # forget the value computed once
        same._model.get_parameter(name).data.view(-1)[0] += 1e-3
        assert same.fingerprint != vlm.fingerprint
        same._model.get_parameter(name).data.view(-1)[0] -= 1e-3
