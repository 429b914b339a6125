"""The transformers back end: parity with each family's own processor and model, loading, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from ex2.base.errors import UserError
from ex2.base.rgb import to_rgb
from ex2.vlm import load_vlm

FAMILIES = ["clip", "align", "siglip", "siglip2"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def _reference(folder: Path) -> tuple[Any, Any]:
    return AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def _same_direction(encoded: torch.Tensor, reference: torch.Tensor) -> None:
    # By hand: torch's cosine_similarity has an epsilon larger than the tiny random ALIGN's embeddings.
    assert (encoded * reference / reference.norm(dim=1, keepdim=True)).sum(dim=1).min() > 1 - 1e-6


def test_texts_as_the_familys_own_processor(hf_folders: dict[str, Path], family: str) -> None:
    texts = ["a tiger", "", "owls at night", "cat"]
    model, processor = _reference(hf_folders[family])
    # What the model cards write; ALIGN's and SigLIP 2's processors pad to 64 by themselves.
    padding: Any = {"clip": {"padding": True}, "siglip": {"padding": "max_length"}}.get(family, {})
    with torch.no_grad():
        reference = model.get_text_features(**processor(text=texts, return_tensors="pt", **padding)).pooler_output
    _same_direction(load_vlm(f"hf:{hf_folders[family]}").encode_texts(texts), reference)


def test_images_as_the_familys_own_processor(
    hf_folders: dict[str, Path], family: str, images: list[Image.Image]
) -> None:
    model, processor = _reference(hf_folders[family])
    inputs = processor(images=[to_rgb(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        reference = model.get_image_features(**inputs).pooler_output
    _same_direction(load_vlm(f"hf:{hf_folders[family]}").encode_images(images), reference)


@pytest.mark.parametrize(("family", "length"), [("clip", 20), ("align", 64), ("siglip", 20), ("siglip2", 64)])
def test_length_of_each_family(hf_folders: dict[str, Path], family: str, length: int) -> None:
    vlm = load_vlm(f"hf:{hf_folders[family]}")
    assert vlm.max_text_tokens == length
    # One token a letter; start and end tokens, or the end alone.
    assert vlm.count_tokens(["", "abc"]) == ([1, 4] if family.startswith("siglip") else [2, 5])
    room = length - vlm.count_tokens([""])[0]
    letter = "a " if family == "clip" else "a"  # CLIP's last letter of a word is another token
    fits, cut, other = vlm.encode_texts([letter * room, letter * room + "b", letter * (room - 1) + "b"])
    assert torch.allclose(fits, cut, atol=1e-5)
    assert not torch.allclose(fits, other, atol=1e-4)


def test_siglip_reads_its_padding(hf_folders: dict[str, Path]) -> None:
    """The reason for `max_length`: with SigLIP, padding to the longest gives another embedding."""
    model, processor = _reference(hf_folders["siglip"])
    with torch.no_grad():
        short = model.get_text_features(**processor(text=["owl"], padding=True, return_tensors="pt")).pooler_output
    encoded = load_vlm(f"hf:{hf_folders['siglip']}").encode_texts(["owl"])
    assert torch.nn.functional.cosine_similarity(encoded, short).item() < 0.999


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip_lower_cases_where_the_tokenizer_does_not(hf_folders: dict[str, Path], family: str) -> None:
    vlm = load_vlm(f"hf:{hf_folders[family]}")
    upper, lower = vlm.encode_texts(["An OWL", "an owl"])
    assert torch.allclose(upper, lower, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "scale", "bias"), [("clip", 20.085537, 0.0), ("align", 4.0, 0.0), ("siglip", 7.389056, -10.0)]
)
def test_logit_scale_and_bias(hf_folders: dict[str, Path], family: str, scale: float, bias: float) -> None:
    vlm = load_vlm(f"hf:{hf_folders[family]}")
    assert vlm.logit_scale == pytest.approx(scale, rel=1e-6)
    assert vlm.logit_bias == bias


def test_tensor_from_older_transformers_is_taken_as_it_is(hf_folders: dict[str, Path]) -> None:
    vlm: Any = load_vlm(f"hf:{hf_folders['clip']}")
    reference = vlm.encode_texts(["an owl"])
    current = vlm._model.get_text_features
    vlm._model.get_text_features = lambda **inputs: current(**inputs).pooler_output
    assert torch.equal(vlm.encode_texts(["an owl"]), reference)


def _copy(hf_folders: dict[str, Path], tmp_path: Path, family: str = "clip") -> Path:
    return Path(shutil.copytree(hf_folders[family], tmp_path / family))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_fingerprint_follows_preprocessing_and_tokenizer(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    original = load_vlm(f"hf:{hf_folders['clip']}").fingerprint
    folder = _copy(hf_folders, tmp_path)
    assert load_vlm(f"hf:{folder}").fingerprint == original  # the place does not count
    processor_file = folder / "processor_config.json"
    processor = json.loads(processor_file.read_text())
    mean = processor["image_processor"]["image_mean"]
    processor["image_processor"]["image_mean"] = [0.5, *mean[1:]]
    processor_file.write_text(json.dumps(processor))
    assert load_vlm(f"hf:{folder}").fingerprint != original
    processor["image_processor"]["image_mean"] = mean
    processor_file.write_text(json.dumps(processor))
    assert load_vlm(f"hf:{folder}").fingerprint == original
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_vlm(f"hf:{folder}").fingerprint != original


def test_fingerprint_follows_what_weights_do_not_show(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    assert load_vlm(f"hf:{folder}").fingerprint != load_vlm(f"hf:{hf_folders['clip']}").fingerprint


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
        ("processor_config.json", "preprocessor_config.json"),
        ("tokenizer.json", "tokenizer.json"),
    ],
)
def test_absent_file_is_named(hf_folders: dict[str, Path], tmp_path: Path, absent: str, named: str) -> None:
    folder = _copy(hf_folders, tmp_path)
    (folder / absent).unlink()
    with pytest.raises(UserError, match=f"has no `{named}`: save model and processor there with `save_pretrained`"):
        load_vlm(f"hf:{folder}")


def test_missing_weights_are_no_random_weights(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copy(hf_folders, tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing from the checkpoint, 'text_projection.weight' first"):
        load_vlm(f"hf:{folder}")


def test_weights_that_do_not_fit_or_are_damaged(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    _edit(folder / "config.json", projection_dim=25)
    with pytest.raises(UserError, match="could not be loaded: "):
        load_vlm(f"hf:{folder}")
    _edit(folder / "config.json", projection_dim=24)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded: "):
        load_vlm(f"hf:{folder}")


def test_folder_that_is_no_dual_encoder(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    folder = _copy(hf_folders, tmp_path, "align")
    config = BertConfig(vocab_size=57, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(folder)
    with pytest.raises(UserError, match="is a BertModel, not a dual encoder: use a model such as CLIP"):
        load_vlm(f"hf:{folder}")


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder '.*/absent': check the path"):
        load_vlm(f"hf:{tmp_path}/absent")


def test_missing_python_package_is_named(hf_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library\n")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(
        UserError, match=r"needs a Python package .*: SiglipTokenizer requires the SentencePiece library"
    ):
        load_vlm(f"hf:{hf_folders['clip']}")


def test_processor_without_images(hf_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoProcessor.from_pretrained(hf_folders["clip"]).tokenizer
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: tokenizer)
    with pytest.raises(UserError, match="no tokenizer and image processor in one"):
        load_vlm(f"hf:{hf_folders['clip']}")
