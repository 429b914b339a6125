"""Weights in pickles are refused with one line, and read by a restricted reader where that is asked for."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle"):
        check_weights(tmp_path, "x", allow_pickle_formats=False)
    (tmp_path / "model.safetensors").write_bytes(b"weights")  # which is preferred
    check_weights(tmp_path, "x", allow_pickle_formats=False)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_not_there_yet(tmp_path: Path, name: str, allowed: bool) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=rf"^x: .*{name} is a pointer of Git LFS, .*`git lfs pull`"):
            check_weights(place, "x", allowed)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} is empty: fetch it again"):
        check_weights(tmp_path, "x", allowed)


def test_a_policys_weights_that_do_not_fit_are_one_line(tiny_llm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(
        UserError, match=r"its weights hold 'model\.layers\.1\..*', a layer more than its config\.json says"
    ):
        load_base(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(UserError, match=r"its weights have other shapes than its config\.json says"):
        load_base(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the weight 'model\.norm\.weight' is not finite: it is damaged"):
        load_base(str(folder))


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
