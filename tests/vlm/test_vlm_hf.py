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
    with pytest.raises(UserError, match=r"1 weight is missing, 'text_projection.weight' first: use a complete"):
        load_vlm(f"hf:{folder}")


def test_weights_that_do_not_fit_or_are_damaged(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    _edit(folder / "config.json", projection_dim=25)
    with pytest.raises(UserError, match="its weights have other shapes than its config.json says, one of the two is"):
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


def _edit_weights(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    weights = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


TOKENS = "text_model.embeddings.token_embedding.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "78 weights are missing, .*: their names begin with 'module.'"),
        (lambda w: w | {"text_model.encoder.layers.2.mlp.fc1.weight": torch.zeros(37, 32)}, "a layer more than its config"),
        (lambda w: w | {TOKENS: w[TOKENS].index_fill(0, torch.tensor([50]), torch.nan)}, f"the weight '{TOKENS}' is not finite"),
        (lambda w: w | {"logit_scale": torch.tensor(200.0)}, "has a logit scale of inf"),
        (lambda w: w | {"text_projection.weight": torch.zeros(24, 32)}, "the embedding of the text 'a cat 猫' is no unit vector"),
    ],
)  # fmt: skip
def test_weights_of_another_kind_are_one_line(
    hf_folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    folder = _copy(hf_folders, tmp_path)
    _edit_weights(folder, change)
    with pytest.raises(UserError, match=message):
        load_vlm(f"hf:{folder}")
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_weights_that_are_not_used_are_said_and_those_in_half_precision_are_read(
    hf_folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _copy(hf_folders, tmp_path)
    _edit_weights(folder, lambda w: {k: v.half() for k, v in w.items()} | {"head.weight": torch.zeros(2)})
    reference = load_vlm(f"hf:{hf_folders['clip']}").encode_texts(["an owl"])
    assert torch.allclose(load_vlm(f"hf:{folder}").encode_texts(["an owl"]), reference, atol=1e-3)
    assert "1 weight is unknown to the model, 'head.weight' first; what is unknown is not used" in caplog.text


def _config(folder: Path, part: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", [-1, None, []])
def test_a_text_tower_whose_kind_is_no_word_is_read_as_clips(
    hf_folders: dict[str, Path], tmp_path: Path, kind: object
) -> None:
    folder = _copy(hf_folders, tmp_path)
    _config(folder, "text_config", model_type=kind)
    reference = load_vlm(f"hf:{hf_folders['clip']}").encode_texts(["an owl"])
    assert torch.allclose(load_vlm(f"hf:{folder}").encode_texts(["an owl"]), reference)


def test_a_wrong_end_token_would_give_all_texts_one_embedding(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    _config(folder, "text_config", eos_token_id=7)
    with pytest.raises(UserError, match=r"'a cat 猫' and the text 'a dog 犬' have the same embedding: .*eos_token_id"):
        load_vlm(f"hf:{folder}")


def test_a_tokenizer_of_another_model_is_refused(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zz</w>"] = 99  # which none of the self-test's texts has
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="its tokenizer has tokens up to number 99, the model 54 embeddings"):
        load_vlm(f"hf:{folder}")


@pytest.mark.parametrize("limit", [7.5, 0, 2, "many"])
def test_a_length_that_leaves_no_room_is_refused(hf_folders: dict[str, Path], tmp_path: Path, limit: Any) -> None:
    folder = _copy(hf_folders, tmp_path)
    _edit(folder / "tokenizer_config.json", model_max_length=limit)
    with pytest.raises(UserError, match=rf"model_max_length={limit!r} .* is no number of tokens above the 2"):
        load_vlm(f"hf:{folder}")


def test_a_folder_of_another_kind_names_the_right_form(hf_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = _copy(hf_folders, tmp_path)
    with pytest.raises(UserError, match=r"model.safetensors' is a file: name its folder"):
        load_vlm(f"hf:{folder}/model.safetensors")
    with pytest.raises(UserError, match=rf"it holds a model of transformers: use `hf:{folder}`"):
        load_vlm(f"open_clip:local-dir:{folder}")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"clip/tokenizer.json is damaged: Expecting property name"):
        load_vlm(f"hf:{folder}")
    (folder / "model.safetensors").rename(folder / "clip.safetensors")
    with pytest.raises(
        UserError, match="has no `model.safetensors`: it holds `clip.safetensors`, which has to be called"
    ):
        load_vlm(f"hf:{folder}")
    (folder / "clip.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").touch()
    with pytest.raises(UserError, match="it holds an adapter alone: merge it into its model"):
        load_vlm(f"hf:{folder}")
    (folder / "config.json").rename(folder / "open_clip_config.json")
    with pytest.raises(UserError, match=rf"it holds a model of open_clip: use `open_clip:local-dir:{folder}`"):
        load_vlm(f"hf:{folder}")


def test_a_model_that_gives_a_vector_for_each_token_is_one_line(hf_folders: dict[str, Path]) -> None:
    vlm: Any = load_vlm(f"hf:{hf_folders['clip']}")
    vlm._model.get_text_features = lambda **inputs: torch.ones(*inputs["input_ids"].shape, 24)
    with pytest.raises(ValueError, match=r"it gives no vector for each, but the shape \(1, 4, 24\)"):
        vlm.encode_texts(["ab"])
