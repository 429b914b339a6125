"""The command line as people type it: dashes for underscores, names that another command has for the same thing, slips.

What only needs the line itself and a look at the disk is said here, before any heavy library is imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import from_home, read_yaml
from ex2.base.hub import looks_like_path
from ex2.base.shipped import find_config
from ex2.commands.train import training_line
from ex2.options.parse import read_line, words_on
from ex2.options.recorded import is_recorded, recorded_algorithm
from ex2.options.run_options import ALGORITHMS

SAME = {"output_dir": "out", "max_completion_length": "max_new_tokens", "eval_batch_size": "batch_size"}
"""What training calls what the other commands call otherwise."""

_WRITTEN_BY = {
    "descriptions": "`ex2 generate` writes files of descriptions",
    "pairs": "`ex2 describe-pairs` writes files of pair descriptions",
    "files": "`ex2 describe-pairs` writes files of pair descriptions",
    "base": "`ex2 generate --base` writes files of descriptions",
    "labels": "`ex2 label` writes sheets for labels",
    "probe": "write JSON lines with class_name, kind and text (docs/analysis.md)",
}
"""Options that name files to read, and where these come from."""

_MADE_BY = {
    "run": "`ex2 train` and `ex2 study` make run folders",
    "folder": "`ex2 train`, `ex2 study` and `ex2 analyze` make such folders",
    "folders": "`ex2 analyze` makes such folders",
    "bundle": "`ex2 export` writes bundles",
}
"""The same of folders."""


_MODELS = ("model_name_or_path", "adapter_name_or_path", "base_model")
"""Options that name models: folders, or repositories of the hub."""


def underscored(line: Sequence[str]) -> list[str]:
    """Options with underscores for dashes, which they never have.

    Raises:
        UserError: A value that nothing can be called, in no option of any command.
    """
    if any("\0" in part for part in line):
        raise UserError("The command line has a NUL character in it: no file, model or dataset is called so.")
    found = list(line)
    for i, part in enumerate(found):
        if part == "--":
            break
        if part.startswith("--"):
            name, equals, value = part.partition("=")
            if value == "--":  # which argparse takes for no value at all
                raise UserError(f"{name}: -- is no value.")
            found[i] = "--" + name[2:].replace("-", "_") + equals + value
    return found


def with_known_names(line: Sequence[str], names: set[str], same: Mapping[str, str] = SAME) -> list[str]:
    """Options under the name that a command with the options `names` has for them; what was changed is noted."""
    found = list(line)
    for i, part in enumerate(found):
        name, equals, value = part.partition("=")
        own = same.get(name[2:])
        if name.startswith("--") and name[2:] not in names and own in names:
            print(f"note: {name} is --{own} here.", file=sys.stderr)
            found[i] = f"--{own}{equals}{value}"
    return found


def check_inputs(arguments: argparse.Namespace) -> None:
    """Raise UserError for files and folders that are not there, and specs of VLMs and datasets that cannot be any."""
    for name, made_by in _MADE_BY.items():
        value = getattr(arguments, name, None)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not os.path.exists(from_home(path)):  # Path.exists fails at long names
                raise UserError(f"{path}: no such folder; {made_by}")
    policy = getattr(arguments, "policy", None)
    if isinstance(policy, str) and looks_like_path(policy) and not os.path.exists(from_home(policy)):
        raise UserError(f"{policy}: no such folder; {_MADE_BY['run']}")
    for name, written_by in _WRITTEN_BY.items():
        value = getattr(arguments, name, None)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not os.path.exists(path):
                raise UserError(f"{path}: no such file; {written_by}")
    for name in _MODELS:
        value = getattr(arguments, name, None)
        if isinstance(value, str) and looks_like_path(value) and not from_home(value).is_dir():
            raise UserError(f"{name}={value} is not a folder.")
    _check_names(arguments)


def _check_names(arguments: argparse.Namespace) -> None:
    """The same of what is called by a name or a spec."""
    from ex2.analysis.judges.load import check_judge
    from ex2.data.naming import require_names
    from ex2.data.specs import check_dataset
    from ex2.rewards import check_rewards
    from ex2.texts.name_matching import read_aliases
    from ex2.texts.questions import load_questions
    from ex2.texts.readings import Reading
    from ex2.vlm.specs import check_spec

    checks: dict[str, Callable[[Any], object]] = {
        "vlm": lambda spec: None if spec == "none" else check_spec(spec),
        "dataset": check_dataset,
        "class_names": lambda file: require_names(from_home(file)),
        "judge": check_judge,
        "aliases": read_aliases,
        "questions": load_questions,
        "reward_funcs": lambda name: check_rewards([name]),
        "reading": lambda name: Reading.of([name]),
    }
    for name, check in checks.items():
        value = getattr(arguments, name, None)
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, (str, Path)):
                check(word)


def algorithm_of(line: list[str]) -> str:
    """The algorithm of a training that names none: the one of a run whose config.yaml is given, or else the one that the config,
    or what it is based on, has options for alone; else PPO.

    Raises:
        UserError: The config is not there, or no config.
    """
    name = words_on(training_line(line)).get("config") if line else None
    path = find_config(name) if name else None
    seen: set[Path] = set()
    while path is not None and path.is_file() and path.resolve() not in seen:  # else the parser says what is wrong
        seen.add(path.resolve())
        if is_recorded(path):
            return recorded_algorithm(path)
        content = read_yaml(path, f"--config {path}")
        sections = [algorithm for algorithm in ALGORITHMS if algorithm in content]
        if sections:
            return sections[0] if len(sections) == 1 else "ppo"
        path = path.parent / str(content["base"]) if "base" in content else None
    return "ppo"


def check_training(algorithm: str, line: list[str]) -> None:
    """The same for the options of a training, on the line and in its config, whose values its own parser takes."""
    line, config = read_line(algorithm, training_line(line)) if line else ([], {})
    check_inputs(argparse.Namespace(**config | words_on(line)))
