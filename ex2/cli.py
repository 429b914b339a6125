"""The `ex2` command: generate descriptions, score and analyse them, compare VLMs; the work is in ex2/commands.

Heavy libraries are imported by the sub-commands that need them, so that help comes at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ex2.base.errors import UserError
from ex2.commands import (
    analyze,
    classify,
    compare,
    describe_pairs,
    export,
    generate,
    judge,
    pair_accuracy,
    score,
    verify_goldens,
)
from ex2.commands import list as list_names
from ex2.launch import use_cores_well


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as one line, and keeps the line breaks of descriptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `ex2` command with `argv` (None: the command line); exit status 2 for what the user can mend."""
    use_cores_well()
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ex2",
        description="EX2 makes vision-language models say what they pay attention to.\n"
        "Training has its own scripts: accelerate launch train/ppo_ex2.py --config configs/quickstart.yaml",
        epilog="Example: ex2 generate runs/quickstart --out descriptions.jsonl",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        generate, describe_pairs, pair_accuracy, score, analyze, compare, classify, export, verify_goldens, judge, list_names,
    ):  # fmt: skip
        command.add(commands)
    return parser
