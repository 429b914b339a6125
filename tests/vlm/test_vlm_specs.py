"""Specs, devices, and the hub when it cannot be reached."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from ex2.base.errors import UserError
from ex2.base.hub import require_repository
from ex2.vlm import list_vlms, load_vlm


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, ex2.vlm; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_list_names_every_form() -> None:
    forms = [form for form, _ in list_vlms()]
    assert forms == [
        "pictogram",
        "hf:ID_OR_DIR",
        "open_clip:MODEL/PRETRAINED",
        "open_clip:hf-hub:ID",
        "open_clip:local-dir:DIR",
    ]
    assert all(description for _, description in list_vlms())


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("pictograms", "did you mean `pictogram`"),
        ("open-clip:ViT-B-32/openai", "did you mean `open_clip:MODEL/PRETRAINED`"),
        ("huggingface:openai/clip", "did you mean `hf:ID_OR_DIR`"),
        ("hf:", "did you mean `hf:ID_OR_DIR`"),
        ("openai/clip-vit-base-patch32", "did you mean `hf:openai/clip-vit-base-patch32` or `open_clip:openai/"),
        ("qqq", "is not known: Use one of `pictogram`"),
    ],
)
def test_unknown_spec_lists_the_forms(spec: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load_vlm(spec)
    message = str(caught.value)
    assert hint in message
    assert repr(spec) in message
    assert all(f"`{form}`" in message for form, _ in list_vlms())
    assert "\n" not in message


def test_bad_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="vlm_dtype 'float8' is none of float32, bfloat16, float16"):
        load_vlm("pictogram", dtype="float8")
    with pytest.raises(UserError, match="vlm device 'gpu' is no torch device: use `cpu` or `cuda`"):
        load_vlm("pictogram", device="gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="vlm device 'cuda' is not there, PyTorch sees 0 GPUs: use `cpu`"):
        load_vlm("pictogram", device="cuda")


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that is switched off, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("spec", ["hf:some/model", "open_clip:hf-hub:some/model", "open_clip:ViT-B-32/openai"])
def test_hub_out_of_reach_fails_fast(unreachable: Path, spec: str) -> None:
    started = time.monotonic()
    with pytest.raises(
        UserError, match=r"could not be fetched from the hub: use a local folder.* check the name"
    ) as caught:
        load_vlm(spec)
    assert time.monotonic() - started < 20
    assert isinstance(caught.value.__cause__, OSError)


def test_name_that_no_repository_can_have() -> None:
    with pytest.raises(UserError, match="'a b' is no name of a hub repository: use a local folder"):
        load_vlm("hf:a b")


def _cache(root: Path, filename: str) -> None:
    """A file in the hub's cache as the hub's client lays it out."""
    commit = "0" * 40
    repository = root / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / filename).write_text("{}")


def test_cached_repository_is_read_without_a_hub(unreachable: Path) -> None:
    _cache(unreachable, "config.json")
    assert require_repository("some/model", "spec", "cure", "config.json") is True
    with pytest.raises(UserError, match="'some/model' could not be fetched from the hub: cure, or check"):
        require_repository("some/model", "spec", "cure", "other.json")


def test_broken_connection_and_answering_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.HTTPError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(UserError, match="could not be fetched from the hub"):
        require_repository("some/absent-model", "spec", "cure", "config.json")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    assert require_repository("some/model", "spec", "cure", "config.json") is False
