"""A walk over all options of all commands: numbers that are none, words in other places, YAML of the wrong kind, odd paths."""

from __future__ import annotations

import argparse
import os
import typing
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from ex2.cli import _parser, main
from tests.fuzz.material import Material
from tests.fuzz.promise import Case, stopped_at_the_work

NO_NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "x",
    "",
    "0x1F",
    "1,5",
    "1 2",
    "None",
    "--",
    "\u0661\u0662x",
)
WORDS = (
    "", " ", "-", "../..", "a" * 300, "b" * 5000, "{}", "{0.__class__}", "%s", "x\ny", "\x1b[31mred", "\u202eright",
    "\U0001f98a", "\x00", "hf:", "open_clip:", "folder:", "csv:", "hf:a/b/c/d", "planted:x", "?", "~nobody-here/x", "nan",
)  # fmt: skip
ALIASES = {"use_transformers_paged": "use_transformers_continuous_batching"}
"""Options that messages call by their new names."""

YAML = {
    "a list": [1, 2], "a mapping": {"a": 1}, "a date": "2024-01-01", "true": True, "a number": 7, "a fraction": 0.5, "text": "x",
    "a long number": "LONG", "a list of lists": [[1]], "bytes": b"x", "infinity": float("inf"),
}  # fmt: skip


def _run_line(line: list[str], folder: Path) -> None:
    """Run `ex2`, in a folder, up to the work itself; nothing that it sets in the environment stays."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        with patch.dict(os.environ), stopped_at_the_work():
            main([part.replace("FOLDER", str(folder)) for part in line])
    finally:
        os.chdir(here)


def lines(material: Material) -> dict[str, list[str]]:
    """A command line of each command that gets as far as the work."""
    vlm, data = ["--vlm", "pictogram"], ["--dataset", material.dataset]
    found = {
        "train": ["quickstart", "--output_dir", "FOLDER/run", "--model_name_or_path", str(material.llm)],
        "study": ["quickstart", "--output_dir", "FOLDER/run", "--dry_run", "true"],
        "generate": [str(material.llm), *data, "--out", "FOLDER/out.jsonl", "--vlm", "none"],
        "describe-pairs": [str(material.llm), *data, *vlm, "--most", "1", "--out", "FOLDER/out.json"],
        "pair-accuracy": [str(material.pairs), *vlm, *data],
        "score": [str(material.texts), *vlm, *data],
        "analyze": [str(material.texts), "--out", "FOLDER/out"],
        "classify": [*vlm, *data, "--descriptions", str(material.texts)],
        "export": [str(material.run), "--out", "FOLDER/out", "--no_descriptions"],
        "verify-goldens": [*vlm, *data, "--as_vlm", "ViT-B/32", "--as_dataset", "cub"],
        "judge": ["--labels", str(material.labels)],
        "list": ["vlms"],
        "view": [str(material.run), "--port", "0"],
    }
    if material.analyses is not None:
        first, second = map(str, material.analyses)
        found |= {"compare": [first, second], "label": [first, "--out", "FOLDER/out", "--n", "12"]}
    if material.bundle is not None:
        found["demo"] = [str(material.bundle), "--port", "0"]
    return found


def walk_commands(material: Material) -> Iterator[Case]:
    """Each option of each command with values that it cannot take, or only perhaps."""
    (subparsers,) = (action for action in _parser()[0]._actions if isinstance(action, argparse._SubParsersAction))
    for command, line in lines(material).items():
        for action in subparsers.choices[command]._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            for what, values, ends in _for_action(action, material):
                name = action.option_strings[0] if action.option_strings else action.dest
                if action.option_strings:
                    without = _without(line, action)
                    tried = [command, *without, *(f"{name}={v}" if len(values) == 1 else v for v in values)]
                    if len(values) > 1:
                        tried = [command, *without, name, *values]
                else:
                    tried = [command, *values, *line[1:]]
                said = (value.replace("FOLDER/", "").strip()[:15] for value in values)
                names = (name, action.dest, str(action.metavar), "summary.json", "named twice", *filter(None, said))
                yield Case(
                    "options of commands", f"{command} {name} {what}", partial(_run_line, tried), (*names, "NUL"), ends
                )


def _without(line: list[str], action: argparse.Action) -> list[str]:
    """A command line without an option that is to be given anew."""
    kept, skip = [], False
    for part in line:
        if part.startswith("--"):
            skip = part in action.option_strings
        if not skip:
            kept.append(part)
    return kept


def _short(value: str) -> str:
    return repr(value) if len(value) <= 20 else f"{value[:10]!r}... of {len(value)} characters"


def _for_action(action: argparse.Action, material: Material) -> Iterator[tuple[str, list[str], str]]:
    """What is tried, values, and how it must end."""
    if isinstance(action, argparse._StoreTrueAction):
        yield "with a value", ["x"], "refused"
    elif action.choices is not None:
        for word in ("nonsense", "", "\u202e", "a" * 5000):
            yield _short(word), [word], "refused"
    elif action.type in (int, float):
        for number in NO_NUMBERS:
            yield _short(number), [number], "refused"
        if action.type is int:
            yield "a fraction", ["1.5"], "refused"
    elif action.type is Path:
        for what, path in _paths(material).items():
            yield what, [path], "either"
        yield "twice", [str(material.texts)] * 2, "either"
    else:
        for word in WORDS:
            yield _short(word), [word], "either"


def _paths(material: Material) -> dict[str, str]:
    return {
        "a missing file": "FOLDER/missing", "a folder": str(material.images), "a device": "/dev/null",
        "a full device": "/dev/full",
        "below a file": f"{material.texts}/x.json", "a name of 300 characters": f"FOLDER/{'n' * 300}", "a NUL": "FOLDER/a\x00b",
        "a line break": "FOLDER/a\nb.json", "no home": "~nobody-here/x.json", "an image": str(next(material.images.rglob("*.*"))),
        "a path of 5,000 characters": "FOLDER/" + "p/" * 2500, "a kernel's file": "/proc/self/mem", "nothing": "",
    }  # fmt: skip


# ---------------------------------------------------------------- training


def kinds(hint: Any) -> set[Any]:
    """The plain types in a type hint."""
    inner = typing.get_args(hint)
    own = {origin} if (origin := typing.get_origin(hint)) in (list, tuple, dict) else set()
    return own.union(*map(kinds, inner)) if inner else {hint}


def training_options(algorithm: str) -> list[tuple[Field[Any], set[Any]]]:
    """All options of a training run, with the plain types that they take."""
    from trl import GRPOConfig, RLOOConfig

    from ex2.options.ex2_options import EX2Config
    from ex2.options.policy_options import PolicyConfig
    from ex2.rl.ppo_config import PPOConfig

    trainer = {"ppo": PPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}[algorithm]
    return [
        (option, kinds(typing.get_type_hints(part)[option.name]))
        for part in (EX2Config, PolicyConfig, trainer)
        for option in fields(part)
        if option.init
    ]


def walk_training() -> Iterator[Case]:
    """Each option of each trainer on the command line and in a file."""
    seen: set[str] = set()
    for algorithm in ("ppo", "grpo", "rloo"):
        for option, types in training_options(algorithm):
            if option.name in seen:
                continue
            seen.add(option.name)
            for what, value, ends in _on_the_line(types):
                line = [
                    "train",
                    "quickstart",
                    "--algorithm",
                    algorithm,
                    "--output_dir",
                    "FOLDER/run",
                    f"--{option.name}={value}",
                ]
                yield Case(
                    "training options",
                    f"{option.name} {what}",
                    partial(_run_line, line),
                    (option.name, ALIASES.get(option.name, "NUL"), "NUL"),
                    ends,
                )
            for what, value, ends in _in_a_file(types):
                line = ["train", "--config", "FOLDER/c.yaml", "--algorithm", algorithm]
                act: Callable[[Path], object] = partial(_with_yaml, line, {option.name: value})
                yield Case(
                    "training options in files",
                    f"{option.name} {what}",
                    act,
                    (option.name, ALIASES.get(option.name, option.name), "a number of 5000 digits"),
                    ends,
                )


def _on_the_line(types: set[Any]) -> Iterator[tuple[str, str, str]]:
    if types & {int, float} and str not in types:
        for number in ("nan", "1e999", "9" * 5000, "x", ""):
            yield _short(number), number, "refused" if bool not in types else "either"
    elif bool in types and str not in types:
        for word in ("maybe", "2", ""):
            yield _short(word), word, "refused"
    else:
        for word in ("", "b" * 5000, "\x1b[31m", "{", "[1", "\x00"):
            yield _short(word), word, "either"


def _in_a_file(types: set[Any]) -> Iterator[tuple[str, Any, str]]:
    for what, value in YAML.items():
        wrong = isinstance(value, (dict, bytes)) or what in (
            "a list of lists",
            "a list",
            "a date",
            "a long number",
            "infinity",
        )
        scalar = not {list, tuple, dict} & types
        yield what, value, "refused" if wrong and scalar else "either"


def _with_yaml(line: list[str], content: dict[str, Any], folder: Path) -> None:
    text = yaml.safe_dump(content | {"output_dir": str(folder / "run")} if "output_dir" not in content else content)
    (folder / "c.yaml").write_text(text.replace("'2024-01-01'", "2024-01-01").replace("LONG", "9" * 5000))
    _run_line(line, folder)
