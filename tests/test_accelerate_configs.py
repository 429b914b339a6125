"""Every accelerate configuration is what accelerate's launcher takes, and its command is one that trains the paper's job."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from ex2.options import vllm as rollouts
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
NAMES = {"single_gpu", "multi_gpu", "multi_node", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}


def command_of(path: Path) -> list[str]:
    head = path.read_text(encoding="utf-8").splitlines()[:3]
    assert [line.partition(":")[0] for line in head] == ["# What", "# Hardware", "# Command"]
    line = shlex.split(head[2].partition(":")[2].replace("NODE", "1").replace("IP", "10.0.0.1"))
    assert line[:4] == ["accelerate", "launch", "--config_file", str(path.relative_to(ROOT))]
    return line[2:]


def launcher(line: list[str]) -> tuple[argparse.Namespace, Any]:
    """What the launcher makes of a command: its arguments and the configuration behind them."""
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(line))
    arguments.deepspeed_fields_from_accelerate_config = ""
    return arguments, defaults


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_kind_of_hardware_has_a_file() -> None:
    assert {path.stem for path in FILES} == NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launcher_knows_every_key(path: Path) -> None:
    load_config_from_file(str(path))  # refuses unknown keys of the first level
    known = vars(launch_command_parser().parse_args(["train/ppo_ex2.py"]))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section in ("deepspeed_config", "fsdp_config"):
        assert set(content.get(section, {})) <= set(known), section  # it takes over unknown ones in silence
    arguments, defaults = launcher(command_of(path))
    for section in ("deepspeed_config", "fsdp_config"):
        for name, value in content.get(section, {}).items():
            assert getattr(arguments, name) == value
    kinds = {"deepspeed_zero2": "use_deepspeed", "deepspeed_zero3": "use_deepspeed", "fsdp2": "use_fsdp"}
    switches = {"use_deepspeed", "use_fsdp", "multi_gpu"}
    on = {name for name in switches if getattr(arguments, name)}
    assert on == ({kinds.get(path.stem, "multi_gpu")} if defaults.num_processes > 1 else set())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_trains_the_paper_s_thousand_rollouts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = command_of(path)
    arguments, _ = launcher(line)
    monkeypatch.setattr(transformers.TrainingArguments, "world_size", arguments.num_processes)
    script = line.index("train/ppo_ex2.py")
    options = parse_options("ppo", [*line[script + 1 :], "--bf16", "false", "--use_cpu", "true"])
    assert (options.samples_per_rollout, options.trainer.num_iterations) == (32, 4)
    assert options.planned_samples(5_000) == 32_000
    assert options.updates_per_rollout == (8 if path.stem == "multi_node" else 16)
    # What shards frozen weights cannot shard 8-bit ones.
    assert options.policy.load_in_8bit == (path.stem not in ("deepspeed_zero3", "fsdp2"))


def test_a_wrong_key_fails(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((ROOT / "accelerate_configs" / "multi_gpu.yaml").read_text(encoding="utf-8") + "num_nodes: 2\n")
    with pytest.raises(ValueError, match="num_nodes"):
        load_config_from_file(str(path))


def test_nodes_are_told_apart_by_the_command() -> None:
    arguments, _ = launcher(command_of(ROOT / "accelerate_configs" / "multi_node.yaml"))
    assert (arguments.num_machines, arguments.num_processes) == (2, 16)
    assert (arguments.machine_rank, arguments.main_process_ip, arguments.main_process_port) == (1, "10.0.0.1", 29500)


def test_fsdp2_passes_the_checks_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    arguments, _ = launcher(command_of(ROOT / "accelerate_configs" / "fsdp2.yaml"))
    environment = prepare_multi_gpu_env(arguments)
    for name, value in environment.items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    parse_options("ppo", ["--use_cpu", "true", "--bf16", "false"])
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert getattr(plugin.auto_wrap_policy, "__name__", "") == "transformer_auto_wrap_policy"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_its_stage(stage: int) -> None:
    arguments, _ = launcher(command_of(ROOT / "accelerate_configs" / f"deepspeed_zero{stage}.yaml"))
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert environment.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false") == str(stage == 3).lower()
    assert "ACCELERATE_GRADIENT_CLIPPING" not in environment  # max_grad_norm decides


# ---------------------------------------------------------------- docs/run_big.md


def documented_commands() -> list[list[str]]:
    text = (ROOT / "docs" / "run_big.md").read_text(encoding="utf-8").replace("$NODE", "1").replace("$IP", "10.0.0.1")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if "train/ppo_ex2.py" in line]
    return [shlex.split(line) for line in lines]


def test_commands_of_the_document_run_what_their_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    check = rollouts.check_rollouts

    def with_gpus(options: RunOptions) -> None:
        options.trainer.use_cpu = False
        check(options)

    monkeypatch.setattr(rollouts, "check_rollouts", with_gpus)
    commands = documented_commands()
    assert {name for line in commands for part in line for name in NAMES if part.endswith(f"/{name}.yaml")} == NAMES
    assert sum("--use_vllm" in line for line in commands) == 2
    for line in commands:
        script = line.index("train/ppo_ex2.py")
        if "accelerate" in line:
            arguments, _ = launcher(line[line.index("launch") + 1 :])
            processes = arguments.num_processes
        else:
            processes = int(line[line.index("--nproc_per_node") + 1])
        plain = [*line[script + 1 : script + 3], "--bf16", "false", "--use_cpu", "true"]
        monkeypatch.setattr(transformers.TrainingArguments, "world_size", 1)
        alone = parse_options("ppo", plain)
        monkeypatch.setattr(transformers.TrainingArguments, "world_size", processes)
        options = parse_options("ppo", [*line[script + 1 :], "--bf16", "false", "--use_cpu", "true"])
        assert options.samples_per_rollout == alone.samples_per_rollout, line
        if "torchrun" not in line:
            assert options.planned_samples(5_000) == alone.planned_samples(5_000), line


def test_a_rollout_of_a_given_size_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["--config", "configs/quickstart.yaml", "--generation_batch_size", "64", "--steps_per_generation", "null"]
    for processes, steps in ((1, 8), (2, 4), (8, 1)):
        monkeypatch.setattr(transformers.TrainingArguments, "world_size", processes)
        options = parse_options("ppo", [*line, "--gradient_accumulation_steps", "1"])
        assert (options.samples_per_rollout, options.trainer.steps_per_generation) == (64, steps)
