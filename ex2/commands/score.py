"""`ex2 score`: score a file of descriptions with any VLM."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.shown import say
from ex2.commands.common import SPLITS, bank_options, open_scorer, output_file


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "score",
        help="score a file of descriptions with any VLM",
        description="Print the mean cosine of descriptions to the images of their classes, with --out also of each, with\n"
        "95 % intervals over classes. Held-out images are those that training never saw, provided that the split\n"
        "options are those of the run.",
        epilog="Example: ex2 score descriptions.jsonl --vlm pictogram --dataset pictograms --split heldout",
    )
    parser.add_argument("descriptions", type=Path, metavar="DESCRIPTIONS", help="file that `ex2 generate` wrote")
    parser.add_argument("--vlm", required=True, metavar="SPEC", help="see `ex2 list vlms`")
    parser.add_argument("--dataset", required=True, help="see `ex2 list datasets`")
    parser.add_argument("--split", choices=SPLITS, default="both", help="images to score with; default: both")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write, with the scores; default: print the means only"
    )
    bank_options(parser, "; default: ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Score and print the means."""
    if not arguments.descriptions.is_file():
        raise UserError(f"{arguments.descriptions}: no such file; `ex2 generate` writes files of descriptions")
    with nullcontext() if arguments.out is None else output_file(arguments.out):
        _score(arguments)


def _score(arguments: argparse.Namespace) -> None:
    from ex2.data import load_images
    from ex2.texts.descriptions import read_descriptions, write_descriptions

    images = load_images(arguments.dataset)
    records = read_descriptions(arguments.descriptions, images.class_names)
    from ex2.analysis.description_scores import format_scores, score_and_summarise

    scorer = open_scorer(arguments, {}, arguments.vlm, images, torch_device(arguments.device))
    scored, summary = score_and_summarise(records, scorer, SPLITS[arguments.split])
    count = f"{summary.n} descriptions of {summary.classes} classes"
    say(f"{arguments.out or arguments.descriptions}: {count}, scored by {arguments.vlm} on {images.name}")
    say(format_scores(summary))
    if arguments.out is not None:  # after the means: a full disk does not take them
        write_descriptions(arguments.out, scored)
