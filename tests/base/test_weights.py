"""Weights in pickles are refused with one line, and read by a restricted reader where that is asked for."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ex2.base.errors import UserError
from ex2.base.weights import check_weights, says_no_safetensors, transformers_options
from ex2.options.parse import parse_options
from ex2.policy.adapters import load_adapter
from ex2.policy.checks import inspect_policy
from ex2.policy.llm import load_base
from ex2.policy.source import load_generator

Arguments = Callable[..., list[str]]
REFUSED = r"is a pickle, a format that can hold code: convert it to \.safetensors, .*--allow_pickle_formats true"


def pickled(folder: Path, to: Path, name: str = "model.safetensors", new: str = "pytorch_model.bin") -> Path:
    """A copy of a folder with its weights in a pickle."""
    shutil.copytree(folder, to)
    torch.save(load_file(to / name), to / new)
    (to / name).unlink()
    return to


class Attack:
    """Runs a command where it is unpickled without restraint."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["w.bin", "w.pt", "w.pth", "w.ckpt", "w"])
def test_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^vlm x: {tmp_path / name} {REFUSED}"):
        check_weights(tmp_path / name, "vlm x", allow_pickle_formats=False)
    check_weights(tmp_path / name, "vlm x", allow_pickle_formats=True)


def test_folders(tmp_path: Path) -> None:
    for name in ("training_args.bin", "optimizer.pt", "tokenizer.json"):
        (tmp_path / name).touch()
    check_weights(tmp_path, "x", allow_pickle_formats=False)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        check_weights(tmp_path, "x", allow_pickle_formats=False)
    (tmp_path / "model.safetensors").touch()  # which is preferred
    check_weights(tmp_path, "x", allow_pickle_formats=False)


def test_policies(tiny_llm: Path, arguments: Arguments, tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    folder = str(pickled(tiny_llm, tmp_path / "llm"))
    with pytest.raises(UserError, match=REFUSED):
        load_base(folder)
    with pytest.raises(UserError, match=f"^{folder}: .*{REFUSED}"):
        load_generator(folder)
    with pytest.raises(UserError, match=f"^model_name_or_path={folder}: .*{REFUSED}"):
        inspect_policy(parse_options("ppo", arguments(tmp_path / "run", model_name_or_path=folder)))
    line = ["generate", folder, "--dataset", "pictograms", "--vlm", "none", "--out", str(tmp_path / "x.jsonl")]
    assert "pytorch_model.bin is a pickle" in refused(line)
    assert "pytorch_model.bin is a pickle" in refused([*line, "--allow-pickle-formats", "false"])
    assert "'maybe' is neither true nor false" in refused([*line, "--allow_pickle_formats", "maybe"])
    same = load_base(folder, allow_pickle_formats=True).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in load_base(str(tiny_llm)).state_dict().items())
    run = arguments(tmp_path / "run", model_name_or_path=folder, allow_pickle_formats=True)
    assert inspect_policy(parse_options("ppo", run)).path == folder


def test_adapters(tiny_adapter: Path, tiny_chat_llm: Path, tmp_path: Path) -> None:
    adapter = str(pickled(tiny_adapter, tmp_path / "a", "adapter_model.safetensors", "adapter_model.bin"))
    with pytest.raises(UserError, match=REFUSED):
        load_adapter(load_base(str(tiny_chat_llm)), adapter)
    with pytest.raises(UserError, match=REFUSED):
        load_generator(adapter)
    load_generator(adapter, allow_pickle_formats=True)


def test_asked_for_they_still_run_nothing(tiny_llm: Path, tmp_path: Path) -> None:
    folder = pickled(tiny_llm, tmp_path / "llm")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Attack(f"touch {tmp_path / 'ran'}")}, protocol=2))
    with pytest.raises(UserError, match="could not be loaded"):
        load_base(str(folder), allow_pickle_formats=True)
    assert not (tmp_path / "ran").exists()


def test_a_hub_model_without_safetensors_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of transformers, found where it says them: there is no hub here."""
    import inspect

    from transformers import modeling_utils

    words = "and thus cannot be loaded with `safetensors`"
    assert words in inspect.getsource(modeling_utils)
    assert says_no_safetensors(OSError(f"m does not appear to have a file {words}."))
    assert not says_no_safetensors(OSError("no such file"))
    assert transformers_options(allow_pickle_formats=False) == {"use_safetensors": True}
    assert transformers_options(allow_pickle_formats=True) == {}
