"""`ex2 train`: the training entry point under a short name, with the configs that come with EX2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ex2.base.errors import UserError
from ex2.base.shipped import about_config, shipped, shipped_configs
from ex2.options.run_options import ALGORITHMS


def add(commands: Any, start: Callable[[str, list[str]], None]) -> None:
    """Describe the command to the parser; `start` is the training entry point, which lies above this room."""
    parser = commands.add_parser(
        "train",
        help="train an LLM under the rewards of a VLM",
        usage="ex2 train [NAME_OR_FILE] [--algorithm ppo|grpo|rloo] [--any_option value ...]",
        description="Train an LLM to describe classes the way a vision-language model prefers, in this process.\n"
        "NAME_OR_FILE comes first: a config by name (below) or a YAML file; `--config NAME_OR_FILE` means the same.\n"
        "All further options are training options: they win over the config.",
        epilog=_epilog(),
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, help="default: the one that the config is for, else ppo")
    parser.add_argument("--help_options", action="store_true", help="list all training options of the algorithm")
    # What the parser does not know goes on to the training options, which have a parser of their own.
    parser.set_defaults(command=lambda arguments: run(arguments, start), further=[])


def run(arguments: argparse.Namespace, start: Callable[[str, list[str]], None]) -> None:
    """Start the training entry point with the options that are its own."""
    start(arguments.algorithm, ["--help"] if arguments.help_options else training_line(arguments.further))


def training_line(line: list[str]) -> list[str]:
    """The training options of a command line: a config that comes first gets its `--config`.

    Raises:
        UserError: Nothing is given, or two configs are.
    """
    if not line:
        raise UserError("Name a config, for example `ex2 train quickstart`. See `ex2 train --help`.")
    if line[0].startswith("-"):
        return line
    if any(part.split("=")[0] == "--config" for part in line):
        raise UserError(f"Two configs are named: {line[0]} and --config. Leave one out.")
    return ["--config", *line]


def _epilog() -> str:
    configs = shipped_configs()
    width = max(map(len, configs), default=0)
    return "\n".join(
        [
            "configs by name:",
            *(f"  {name.ljust(width)}  {about_config(path)}" for name, path in configs.items()),
            "",
            "examples:",
            "  ex2 train quickstart",
            "  ex2 train quickstart --dry_run true     # batch arithmetic and memory; loads no weights",
            "  ex2 train quickstart --vlm hf:google/siglip2-base-patch16-224 --dataset folder:data/birds --output_dir runs/birds",
            "  ex2 train quickstart --algorithm grpo",
            "  ex2 train quickstart_grpo               # a config for one algorithm trains with it",
            "  ex2 train --help_options                # all training options; with --algorithm grpo, those of GRPO",
            "",
            "several processes, one GPU each (docs/run_big.md):",
            "  accelerate launch -m ex2.train.ppo_ex2 --config NAME_OR_FILE ...   # EX2 installed from a wheel",
            "  accelerate launch train/ppo_ex2.py --config NAME_OR_FILE ...       # in a checkout",
            f"  settings for --config_file: {shipped('accelerate_configs')}",
        ]
    )
