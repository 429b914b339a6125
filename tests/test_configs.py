"""Every configuration that comes with the project can be used as its header says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from ex2.options import parse_options

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LAUNCHERS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


def test_there_are_configurations() -> None:
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS
    assert LAUNCHERS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_parses_with_the_command_in_its_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    head = path.read_text(encoding="utf-8").splitlines()[:3]
    assert [line.partition(":")[0] for line in head] == ["# What", "# Hardware", "# Command"]
    command = shlex.split(head[2].partition(":")[2])
    script = next(part for part in command if part.startswith("train/"))
    assert (ROOT / script).is_file()
    for part in command:
        if part.startswith("accelerate_configs/"):
            assert (ROOT / part).is_file()
    line = command[command.index(script) + 1 :]
    assert line[:2] == ["--config", str(path.relative_to(ROOT))]
    algorithm = re.fullmatch(r"train/(\w+)_ex2\.py", script)
    assert algorithm is not None
    # This machine may have no GPU: precision is the one thing that is not tried.
    options = parse_options(algorithm[1], [*line, "--bf16", "false", "--use_cpu", "true"])
    assert options.output_dir.parts[0] == "runs"
    assert options.samples_per_rollout % options.trainer.num_generations == 0


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launcher_configuration_loads(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision in ("no", "bf16", "fp16")


def test_training_scripts_start_their_own_algorithm() -> None:
    for algorithm in ("ppo", "grpo", "rloo"):
        text = (ROOT / "train" / f"{algorithm}_ex2.py").read_text(encoding="utf-8")
        assert f'main("{algorithm}")' in text
