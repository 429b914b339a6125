"""From a YAML file and the command line to checked options, with errors that name the option, its value and the cure."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from ex2.base.bf16 import cpu_has_bf16
from ex2.base.errors import UserError, did_you_mean, one_line, shortened
from ex2.base.files import read_yaml
from ex2.base.ranges import RANGES, check_ranges
from ex2.base.shipped import find_config
from ex2.options.ex2_options import EX2Config, check_choices
from ex2.options.kinds import check_kinds, check_texts, in_lists, type_hints
from ex2.options.names import option_names
from ex2.options.run_options import ALGORITHMS, RunOptions

_REFUSALS = (
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    LookupError,
    ImportError,
    RuntimeError,
)
"""What argparse, TRL and transformers raise for values that they cannot take."""


class _Parser(argparse.ArgumentParser):
    """Mixin that turns argparse's usage-and-exit into our one-line error."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message[0].upper() + message[1:] + ". See --help.")


def parse_options(algorithm: str, argv: Sequence[str] | None = None) -> RunOptions:
    """Parse `--config FILE_OR_NAME` and `--option value` pairs, the latter winning.

    A name that is no file means a config that comes with EX2. A config file is flat, and may have two kinds of keys that are no
    options: `base: FILE`, relative to it, whose options hold where it has none of its own, and sections `ppo:`, `grpo:`,
    `rloo:` of options for that algorithm alone.

    Raises:
        UserError: Unknown option (with the nearest valid name), a value of the wrong type or out of range, a config file that
            is missing or no YAML mapping, or batch sizes that do not divide.
    """
    argv, config = read_line(algorithm, list(sys.argv[1:] if argv is None else argv))

    from trl import GRPOConfig, RLOOConfig

    from ex2.options.combinations import check_combination
    from ex2.options.policy_options import PolicyConfig
    from ex2.options.vllm import check_rollouts
    from ex2.rl.ppo_config import PPOConfig

    trainer_type = {"ppo": PPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}[algorithm]
    types = (EX2Config, PolicyConfig, trainer_type)
    hints = type_hints(types)
    on_line = _words_on(argv, set(hints))
    given = _names_on(argv) | set(config)
    check_kinds(config, hints)
    config = in_lists(config, hints)
    check_texts(on_line, hints)

    parsed = partial(_parsed, types, algorithm)
    try:
        ex2_config, policy, trainer, stray = parsed([*_defaults(given), *argv], config)
    except UserError:
        raise
    except _REFUSALS as error:
        said = one_line(error)
        named = any(re.search(rf"\b{name}\b", said) for name in given)
        raise UserError(said if named else _culprit(parsed, argv, config, given) + said) from error
    if stray:
        raise UserError(
            f"Stray value {stray[0]} on the command line: this option takes one; give a list in a config file."
        )
    options = RunOptions(algorithm, ex2_config, policy, trainer)
    _check_numbers(options)
    check_combination(options)
    check_rollouts(options)
    return options


def read_line(algorithm: str, argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The command line without `--config`, and the options of that file; what can be said of both before TRL is imported is.

    Raises:
        UserError: Unknown option, a number out of range, a config file that is missing or no YAML mapping.
    """
    names = option_names(algorithm)
    argv, config = _take_config(argv, algorithm, names)
    _refuse_unknown(_names_on(argv) - {"config", "help"}, names, "on the command line")
    given = config | _words_on(argv, names)
    _check_given(given)
    check_choices(given)
    return argv, config


def _parsed(types: tuple[type, ...], algorithm: str, argv: Sequence[str], config: Mapping[str, Any]) -> Any:
    """EX2's, the policy's and the trainer's options, and what is left of the command line."""
    from trl import TrlParser

    parser_type = type("Parser", (_Parser, TrlParser), {})
    parser = parser_type(dataclass_types=types, description=_description(algorithm), allow_abbrev=False)
    parser.set_defaults_with_config(**config)
    return parser.parse_args_into_dataclasses(args=list(argv), return_remaining_strings=True)


def _culprit(parsed: Callable[..., Any], argv: Sequence[str], config: Mapping[str, Any], given: set[str]) -> str:
    """The option without which the others are taken, for an error of a library that names none; nothing where there is none."""
    for name in sorted(given):
        rest = _without(argv, name)
        try:
            parsed([*_defaults(given - {name}), *rest], {key: value for key, value in config.items() if key != name})
        except (UserError, *_REFUSALS):
            continue
        return f"{name}={shortened(str(_words_on(argv, {name}).get(name, config.get(name))), 600)}: "
    return ""


def _without(argv: Sequence[str], name: str) -> list[str]:
    """A command line without an option and its values."""
    kept, skip = [], False
    for part in argv:
        if part.startswith("--"):
            skip = part[2:].partition("=")[0].replace("-", "_") == name
        if not skip:
            kept.append(part)
    return kept


def _defaults(given: set[str]) -> list[str]:
    """EX2's defaults where TRL's do not suit.

    Nothing is reported over the network unless asked for; on a CPU, bf16 is used where the processor multiplies in it.
    """
    import torch

    defaults = {"report_to": "none", "output_dir": "runs/ex2", "logging_steps": "1"}
    if not torch.cuda.is_available():
        defaults |= {"use_cpu": "true", "bf16": str(cpu_has_bf16()).lower()}
    return [part for name, value in defaults.items() if name not in given for part in (f"--{name}", value)]


def _names_on(argv: Sequence[str]) -> set[str]:
    return {part[2:].split("=")[0].replace("-", "_") for part in argv if part.startswith("--")}


def _take_config(argv: list[str], algorithm: str, names: set[str]) -> tuple[list[str], dict[str, Any]]:
    """The command line without `--config FILE`, and the options in that file; its `env` goes to the environment, as in TRL."""
    argv = [part for given in argv for part in (given.split("=", 1) if given.startswith("--config=") else [given])]
    if "--config" not in argv:
        return argv, {}
    position = argv.index("--config")
    if position + 1 == len(argv):
        raise UserError("--config needs a file.")
    path = find_config(argv[position + 1])
    config = _read_config(path, f"--config {path}", algorithm, names)
    os.environ.update({str(name): str(value) for name, value in config.pop("env", {}).items()})
    return argv[:position] + argv[position + 2 :], config


def _read_config(
    path: Path, where: str, algorithm: str, names: set[str], above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Options of a config file: those of its base, its own, and those for the algorithm, each winning over what is before."""
    if not path.is_file():
        raise UserError(f"{where} does not exist.")
    if path.resolve() in above:
        raise UserError(f"{where} is its own base.")
    content = read_yaml(path, where)
    base = content.pop("base", None)
    sections = {name: content.pop(name) for name in ALGORITHMS if name in content}
    for name, section in ({"env": content.get("env", {})} | sections).items():
        if not isinstance(section, dict):
            raise UserError(f"{where}: {name} must hold indented option: value lines.")
    own = sections.get(algorithm, {})
    _refuse_unknown({str(name) for name in content} - {"env"}, names, f"in {path}")
    _refuse_unknown(map(str, own), names, f"under {algorithm} in {path}")
    if base is None:
        return content | own
    below = path.parent / str(base)
    return _read_config(below, f"base {below} of {path}", algorithm, names, (*above, path.resolve())) | content | own


def _refuse_unknown(given: Iterable[str], names: set[str], where: str) -> None:
    for name in sorted(set(given) - names):
        raise UserError(f"Unknown option {name} {where}.{did_you_mean(name, names, cutoff=0.5)}")


def words_on(argv: Sequence[str]) -> dict[str, str]:
    """Options on a command line with the (first) word of their values; those without one are left out."""
    pairs = zip_longest(argv, argv[1:], fillvalue="")
    split = (part.split("=", 1) if "=" in part else (part, after) for part, after in pairs if part.startswith("--"))
    return {name[2:].replace("-", "_"): value for name, value in split if not value.startswith("--")}


def _words_on(argv: Sequence[str], names: set[str]) -> dict[str, str]:
    """The same of known options."""
    return {name: value for name, value in words_on(argv).items() if name in names}


def _check_given(values: Mapping[str, Any]) -> None:
    """Refuse what is no number or out of range before TRL computes with it."""
    for name, given in values.items():
        for value in given if isinstance(given, list) else [given]:
            if name in RANGES and value is not None:
                check_ranges(SimpleNamespace(**{name: _number(name, value)}), [name])


def _number(name: str, value: Any) -> float | None:
    """A value as a number; None for the words None and null, which the parser knows what to do with."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
        if value in ("None", "null"):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name}={value} must be a number.")
    return value


def _check_numbers(options: RunOptions) -> None:
    trainer = options.trainer
    for part in (options.ex2, options.policy, trainer):
        check_ranges(part, RANGES)
    if trainer.max_steps != -1:  # else num_train_epochs holds
        check_ranges(trainer, {"max_steps": (1, None)})
    passes = trainer.num_iterations * options.micro_batches_per_rollout
    if passes % trainer.gradient_accumulation_steps:
        raise UserError(
            f"gradient_accumulation_steps={trainer.gradient_accumulation_steps} must divide num_iterations x "
            f"steps_per_generation = {trainer.num_iterations} x {trainer.steps_per_generation}, so that every rollout ends "
            "with an update."
        )
    if trainer.save_strategy == "steps":
        if trainer.save_steps < 1:
            raise UserError(f"save_steps={trainer.save_steps} must be a whole number of updates.")
        # A checkpoint in the middle of a rollout cannot be resumed exactly: the samples in use are not part of it.
        rollouts = -(-int(trainer.save_steps) // options.updates_per_rollout)
        trainer.save_steps = rollouts * options.updates_per_rollout


def _description(algorithm: str) -> str:
    return (
        f"Train an LLM with {algorithm.upper()} to describe classes the way a vision-language model prefers. "
        "Options come from --config FILE_OR_NAME (YAML, option: value; `ex2 list configs` has the names) and from the "
        "command line, which wins. "
        f"Example: accelerate launch train/{algorithm}_ex2.py --config configs/quickstart.yaml --learning_rate 1e-4"
    )
