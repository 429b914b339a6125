"""`ex2 verify-goldens`: check published zero-shot accuracies where data and weights lie on disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.ranges import RANGES
from ex2.commands.common import aliases_option, open_scorer, pickle_option


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "verify-goldens",
        help="check published zero-shot accuracies with your data and weights",
        description="Classify all official test images of a dataset with one template, and with FuDD where --pairs has its\n"
        "sentences, and compare with what is published. Exit status 1 where a number is out of tolerance.",
        epilog="Example: ex2 verify-goldens --vlm open_clip:ViT-B-32/openai --dataset cub:data/CUB_200_2011",
    )
    parser.add_argument("--vlm", required=True, metavar="SPEC", help="see `ex2 list vlms`")
    parser.add_argument("--dataset", required=True, help="see `ex2 list datasets`; a folder: must hold the test images")
    parser.add_argument(
        "--class_names", metavar="FILE", help="names of the classes of --dataset, or lines `CLASS name`"
    )
    parser.add_argument("--as_vlm", metavar="NAME", help="published name of a local VLM, such as ViT-B/32")
    parser.add_argument("--as_dataset", metavar="NAME", help="which dataset a folder: holds, such as cub")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="FuDD's sentences")
    aliases_option(parser)
    parser.add_argument(
        "--tolerance", type=float, default=0.5, metavar="POINTS", help="tolerated difference in percent; default: 0.5"
    )
    parser.add_argument("--vlm_dtype", metavar="X", help="precision of the VLM's weights; default: float32")
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument("--cache_dir", metavar="DIR", help="folder of banks; default: $EX2_CACHE or ~/.cache/ex2")
    pickle_option(parser)
    # The bank's two sides are joined again, so how it splits does not matter.
    parser.set_defaults(
        command=run, images_per_class=RANGES["images_per_class"][1], heldout_fraction=None, split_seed=None
    )


def run(arguments: argparse.Namespace) -> None:
    """Classify, compare and print."""
    from ex2.data import LabelledImages, load_images
    from ex2.texts.name_matching import read_aliases
    from ex2.texts.pairs import read_pairs
    from ex2.zero_shot.published import check, find_golden, official_images

    golden = find_golden(arguments.vlm, arguments.dataset, as_vlm=arguments.as_vlm, as_dataset=arguments.as_dataset)
    images = load_images(arguments.dataset)
    if not isinstance(images, LabelledImages):
        raise UserError(f"--dataset {arguments.dataset} has no images.")
    if arguments.pairs is not None and golden.fudd is None:
        raise UserError(f"--pairs: no accuracy of FuDD is published for {golden.vlm} on {golden.dataset}.")
    pairs = (
        None
        if arguments.pairs is None
        else read_pairs(arguments.pairs, images.class_names, read_aliases(arguments.aliases))
    )
    from functools import partial

    from ex2.base.cache import cache_folder
    from ex2.texts.questions import TEMPLATE
    from ex2.zero_shot.class_texts import ClassTexts, text_sums
    from ex2.zero_shot.follow_up import follow_up, pair_sums
    from ex2.zero_shot.vectors import TOP, predict

    scorer = open_scorer(arguments, {}, arguments.vlm, official_images(images), torch_device(arguments.device))
    bank = scorer.bank
    rows, labels = bank.embeddings.to(bank.device), bank.labels.to(bank.device)
    sums_of = partial(text_sums, scorer, cache=cache_folder(arguments.cache_dir) / "texts")
    texts = ClassTexts.of_templates(images.class_names, [TEMPLATE])
    templates = sums_of(texts.texts, texts.class_ids, len(images.class_names)).vectors()
    first = predict(templates, rows, max(TOP, golden.k))
    fudd = None
    if pairs is not None:
        second = follow_up(first, rows, pair_sums(pairs, templates, sums_of), golden.k, progress=True)
        fudd = 100 * float(second.correct(labels).double().mean())
    template = 100 * float(first.correct(labels).double().mean())

    checks = check(golden, len(labels), template, fudd, arguments.tolerance)
    print(f"{golden.vlm} on {golden.dataset} ({golden.source}), tolerance {arguments.tolerance:g} points:")
    print(f"{'':<14}{'published':>18}{'measured':>16}")
    for quantity, published, measured, ok in checks:
        verdict = "" if ok is None else "ok" if ok else "DIFFERS"
        print(f"{quantity:<14}{published:>18}{measured:>16}  {verdict}".rstrip())
    if any(ok is False for *_, ok in checks):
        sys.exit(1)
