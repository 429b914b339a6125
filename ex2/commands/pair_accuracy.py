"""`ex2 pair-accuracy`: how well files of pair descriptions tell the images of each two classes apart."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.shown import say
from ex2.commands.common import aliases_option, bank_options, open_scorer


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "pair-accuracy",
        help="compare files of pair descriptions by how well they tell images apart",
        description="For each pair of classes that all files have sentences about, the share of images of the two that lie\n"
        "nearer to the sentences about their own class, with 95 % intervals over pairs; and the last file minus the\n"
        "template and each other file.",
        epilog="Example: ex2 pair-accuracy base.json aligned.json --vlm pictogram --dataset pictograms",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="file that `ex2 describe-pairs` wrote")
    parser.add_argument("--vlm", required=True, metavar="SPEC", help="see `ex2 list vlms`")
    parser.add_argument("--dataset", required=True, help="see `ex2 list datasets`")
    aliases_option(parser)
    bank_options(parser, "; default: ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Score and print the table."""
    from ex2.data import load_images
    from ex2.texts.name_matching import read_aliases
    from ex2.texts.pairs import read_pairs

    if len(set(arguments.files)) < len(arguments.files):
        raise UserError("A file is named twice: name each once.")
    images = load_images(arguments.dataset)
    aliases = read_aliases(arguments.aliases)
    files = {str(path): read_pairs(path, images.class_names, aliases) for path in arguments.files}
    pairs = sorted(set.intersection(*(set(texts.pairs) for texts in files.values())))
    if not pairs:
        raise UserError("There is no pair of classes that all files have sentences about.")
    from ex2.zero_shot.pair_accuracy import format_table, name_texts, score_pairs, summarise

    scorer = open_scorer(arguments, {}, arguments.vlm, images, torch_device(arguments.device))
    systems = [score_pairs("template", scorer, name_texts(images.class_names, pairs), pairs)]
    systems += [score_pairs(name, scorer, texts.about(), pairs) for name, texts in files.items()]
    say(format_table(summarise(systems, images.class_names, pairs)))
    if left_out := len(set.union(*(set(texts.pairs) for texts in files.values()))) - len(pairs):
        say(f"{left_out} pairs that not all files have sentences about are left out.")
