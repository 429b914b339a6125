"""The `ex2` command: train, generate descriptions, score and analyse them, compare VLMs; the work is in ex2/commands.

Heavy libraries are imported by the sub-commands that need them, so that help comes at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ex2.base.errors import UserError, did_you_mean
from ex2.base.ranges import RANGES, check_ranges
from ex2.commands import (
    analyze,
    classify,
    compare,
    demo,
    describe_pairs,
    export,
    generate,
    judge,
    label,
    pair_accuracy,
    score,
    study,
    train,
    verify_goldens,
    view,
)
from ex2.commands import list as list_names
from ex2.commands.line import SAME, algorithm_of, check_inputs, check_training, underscored, with_known_names
from ex2.data.names import with_class_names
from ex2.launch import ending_in_one_line, keep_quiet, use_cores_well
from ex2.launch import main as start_training


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as one line, and keeps the line breaks of descriptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        if wrong := re.match(
            r"argument (?P<what>[^:]+): invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)", message
        ):
            near = did_you_mean(wrong["word"], re.findall(r"[\w-]+", wrong["known"]))
            message = f"{wrong['what']} {wrong['word']} is unknown.{near} There are {wrong['known']}"
        raise UserError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `ex2` command with `argv` (None: the command line); exit status 2 for what the user can mend."""
    use_cores_well()
    keep_quiet()
    with ending_in_one_line():
        _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()


def _run(argv: Sequence[str] | None) -> None:
    """Parse a command line and run its command."""
    parser, commands = _parser()
    line = underscored(sys.argv[1:] if argv is None else argv)
    if not line:
        parser.print_help()
        return
    own = _options(commands.get(line[0]))
    if line[0] == "train":  # its further options are those of a parser of its own
        line = with_known_names(line, set(SAME), {here: there for there, here in SAME.items() if here != "batch_size"})
    elif line[0] != "study":
        line = with_known_names(line, {name[2:] for name in own})
    arguments, unknown = parser.parse_known_args(line)
    if unknown and not hasattr(arguments, "further"):
        near = did_you_mean(unknown[0].partition("=")[0], own)
        raise UserError(f"Unrecognized arguments: {' '.join(unknown)}.{near} See `ex2 {line[0]} --help`.")
    arguments.further = unknown  # `ex2 train` and `ex2 study` pass them on
    check_ranges(arguments, RANGES, "--{} {}")
    _name_classes(arguments)
    check_inputs(arguments)
    if hasattr(arguments, "algorithm"):
        arguments.algorithm = arguments.algorithm or algorithm_of(unknown)
        check_training(arguments.algorithm, unknown)
    arguments.command(arguments)


def _name_classes(arguments: argparse.Namespace) -> None:
    """Put --class_names into --dataset, where all commands look for it."""
    if getattr(arguments, "class_names", None) is not None:
        if arguments.dataset is None:
            raise UserError("--class_names needs --dataset, whose classes it names.")
        arguments.dataset = with_class_names(arguments.dataset, arguments.class_names)


class _Version(argparse.Action):
    """Prints what a bug report needs; an action of its own, because metadata are read only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("\n".join(_versions()))
        parser.exit()


def _versions() -> list[str]:
    """EX2, Python and the libraries that results depend on, one a line, from the installed metadata; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"python {sys.version.split()[0]}"]
    for name in ("torch", "transformers", "trl"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    try:
        return [f"ex2 {version('ex2')}", *lines]
    except PackageNotFoundError:
        return ["ex2 is not installed: this is a bare folder of its code", *lines]


def _options(parser: argparse.ArgumentParser | None) -> list[str]:
    """The long options of a command."""
    return [] if parser is None else [name for name in parser._option_string_actions if name.startswith("--")]


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of `ex2`, and those of its commands by name."""
    parser = _Parser(
        prog="ex2",
        description="EX2 makes vision-language models say what they pay attention to.",
        epilog="Example: ex2 study --vlm hf:google/siglip2-base-patch16-224 --dataset folder:photos --out runs/photos",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the versions of EX2 and its libraries")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    study.add(commands, start_training, _run)
    train.add(commands, start_training)
    for command in (
        generate, describe_pairs, pair_accuracy, score, analyze, compare, classify, export, demo, verify_goldens, judge, label,
        view, list_names,
    ):  # fmt: skip
        command.add(commands)
    return parser, commands.choices
