"""Every number of every command has a range, and nothing outside of it is taken: a walk over all options."""

from __future__ import annotations

import argparse
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig, RLOOConfig

from ex2.base.errors import UserError
from ex2.base.ranges import RANGES
from ex2.cli import _parser
from ex2.options.ex2_options import EX2Config
from ex2.options.parse import parse_options
from ex2.options.policy_options import PolicyConfig
from ex2.rl.ppo_config import PPOConfig

TRAINERS = {"ppo": PPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}


def kinds(hint: Any) -> set[Any]:
    """The plain types in a type hint."""
    inner = typing.get_args(hint)
    return set().union(*map(kinds, inner)) if inner else {hint}


def numbers_of(*parts: type) -> list[str]:
    """Options of a training run that take numbers."""
    hints = [
        (field.name, typing.get_type_hints(part)[field.name]) for part in parts for field in fields(part) if field.init
    ]
    return [name for name, hint in hints if kinds(hint) & {int, float}]


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (action for action in _parser()[0]._actions if isinstance(action, argparse._SubParsersAction))
    return dict(subparsers.choices)


def numbers_of_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Command, option, and what the command needs beside it."""
    for command, parser in commands().items():
        needed: list[str] = []
        for action in parser._actions:
            if action.required:
                needed += [*action.option_strings[:1], "x"]
        for action in parser._actions:
            if action.type in (int, float):
                yield command, action.dest, needed


def test_every_number_is_in_the_table() -> None:
    found = set(numbers_of(EX2Config, PolicyConfig, *TRAINERS.values()))
    found |= {name for _, name, _ in numbers_of_commands()}
    assert found - set(RANGES) == set()
    assert set(RANGES) - found == set(), "no option of this name"


def test_every_range_ends() -> None:
    for name, (low, high) in RANGES.items():
        assert high is not None, name
        assert math.isfinite(low), name
        assert low < high < 2**63, name


@pytest.mark.parametrize("algorithm", TRAINERS)
@pytest.mark.parametrize("source", ["command line", "file"])
def test_no_training_option_takes_a_number_out_of_range(algorithm: str, source: str, tmp_path: Path) -> None:
    for name in numbers_of(EX2Config, PolicyConfig, TRAINERS[algorithm]):
        low, high = RANGES[name]
        for value in ("nan", "inf", "-inf", str(low - 1), str((high or 0) * 10), "1e300"):
            line = [f"--{name}", value] if value[0] != "-" else [f"--{name}={value}"]
            if source == "file":
                dotted = value.replace("1e300", "1.0e+300")
                yaml_value = f".{value}" if value in ("nan", "inf") else "-.inf" if value == "-inf" else dotted
                (tmp_path / "run.yaml").write_text(f"{name}: {yaml_value}\n")
                line = ["--config", str(tmp_path / "run.yaml")]
            with pytest.raises(UserError, match=f"^{name}=.* is out of range: it must be "):
                parse_options(algorithm, line)


def test_every_number_of_a_list_counts() -> None:
    line = ["--reward_funcs", "cosine", "margin", "--reward_weights", "1.0", "nan", "--use_cpu", "true"]
    with pytest.raises(UserError, match="^reward_weights=nan is out of range"):
        parse_options("ppo", line)


@pytest.mark.parametrize("name", ["learning_rate", "seed", "reward_weights", "save_steps"])
@pytest.mark.parametrize("value", ["true", "{a: 1}", "2024-01-01", "[[1]]"])
def test_what_is_no_number_in_a_file_is_refused_by_name(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{name}: {value}\n")
    with pytest.raises(UserError, match=rf"^{name}=.* must be a number\.$"):
        parse_options("ppo", ["--config", str(tmp_path / "run.yaml")])


@pytest.mark.parametrize(("command", "name", "needed"), list(numbers_of_commands()), ids=lambda value: str(value)[:20])
def test_no_command_takes_a_number_out_of_range(
    command: str, name: str, needed: list[str], refused: Callable[[list[str]], str]
) -> None:
    kind = next(action.type for action in commands()[command]._actions if action.dest == name)
    low, high = RANGES[name]
    values = [int(low) - 1, int(high or 0) * 10 + 1] if kind is int else [low - 1, (high or 0) * 10 + 1, "nan", "inf"]
    for value in values:
        assert f"--{name} {value}" in refused([command, *needed, f"--{name}={value}"])
        assert "is out of range: it must be" in refused([command, *needed, f"--{name}={value}"])


def test_a_device_that_is_not_there(refused: Callable[[list[str]], str]) -> None:
    for device in ("foo", "cuda:99", "cpu:x"):
        line = refused(["judge", "--labels", __file__, "--device", device])
        assert f"--device {device} is no device of this machine" in line or "broken JSON" in line
