"""`ex2 classify`: zero-shot classification with templates, descriptions and FuDD, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.files import write_atomically
from ex2.base.folders import being_written, output_folder
from ex2.base.shown import say
from ex2.commands.common import aliases_option, bank_options, open_scorer

_CLASSIFICATION = "classification"
_RESERVED = ("class_name", "template", "template_set", "random_words")
_RECORDED = (
    "names",
    "average",
    "empty_class",
    "seed",
    "images_per_class",
    "heldout_fraction",
    "split_seed",
    "vlm_dtype",
)


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "classify",
        help="zero-shot classification with templates, descriptions and FuDD",
        description="Classify images with class names, templates, descriptions and random words, and with FuDD's follow-up on\n"
        "the K most likely classes; print accuracies with intervals beside the template's (docs/classify.md).",
        epilog="Examples:\n"
        "  ex2 classify --vlm pictogram --dataset pictograms --descriptions base.jsonl aligned.jsonl --out accuracy\n"
        "  ex2 classify --vlm open_clip:ViT-B-32/openai --dataset cub:/data/cub --pairs pairs.json --sweep 2,5,10,all",
    )
    parser.add_argument("--vlm", required=True, metavar="SPEC", help="see `ex2 list vlms`")
    parser.add_argument("--dataset", required=True, help="see `ex2 list datasets`")
    parser.add_argument(
        "--split", choices=("reward", "heldout", "validation"), default="heldout", help="images; default: heldout"
    )
    parser.add_argument(
        "--descriptions",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="descriptions, or JSON of classes and texts",
    )
    parser.add_argument(
        "--names",
        choices=("as_written", "with", "without"),
        default="as_written",
        help="class names in descriptions: as written, put before texts that lack them, or taken out; default: as_written",
    )
    parser.add_argument(
        "--average",
        choices=("embeddings", "scores"),
        default="embeddings",
        help="a class's texts: mean of embeddings, made a unit vector again, or mean of cosines; default: embeddings",
    )
    parser.add_argument(
        "--empty_class",
        choices=("error", "template"),
        default="error",
        help="what stands in for a class without descriptions; default: error",
    )
    parser.add_argument("--templates", type=Path, metavar="FILE", help="template set, one a line; default: EX2's own")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="sentences that contrast two classes, for FuDD")
    aliases_option(parser)
    parser.add_argument(
        "--follow_up", "--follow-up", metavar="K", help="candidates of FuDD, or all; default with --pairs: 10"
    )
    parser.add_argument("--sweep", metavar="K,K,...", help="several numbers of candidates, such as 2,5,10,all")
    parser.add_argument(
        "--gate",
        action="store_true",
        help="also FuDD that keeps the template's answer where its margin is large; chosen on the reward images",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for predictions and results; default: print only"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random controls; default: 0")
    bank_options(parser, "; default: ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Classify, print and write."""
    _check_options(arguments)
    out = arguments.out
    with nullcontext() if out is None else output_folder(out, "results.json", _CLASSIFICATION):
        _classify(arguments)


def _classify(arguments: argparse.Namespace) -> None:
    from statistics import median

    from ex2.base.cache import cache_folder
    from ex2.data import LabelledImages, load_images
    from ex2.stats.intervals import visible_accuracy
    from ex2.texts.name_matching import read_aliases
    from ex2.texts.pairs import read_pairs
    from ex2.texts.questions import TEMPLATE, read_templates
    from ex2.zero_shot.class_texts import TEMPLATE_SET, read_class_texts

    images = load_images(arguments.dataset)
    names = images.class_names
    templates: tuple[str, ...] = TEMPLATE_SET
    if arguments.templates is not None:
        templates = read_templates(arguments.templates, f"--templates {arguments.templates}", "template")
    files = _labels(arguments.descriptions)
    aliases = read_aliases(arguments.aliases)
    described = {
        label: read_class_texts(path, names, allow_empty=arguments.empty_class == "template", aliases=aliases).named(
            names, arguments.names
        )
        for label, path in files.items()
    }
    pairs, ks = None, []
    if arguments.pairs is not None:
        ks = _candidates(arguments, len(names))
        pairs = read_pairs(arguments.pairs, names, aliases)

    from ex2.zero_shot.page import classification_page, conclusion
    from ex2.zero_shot.systems import compare, with_controls

    systems = with_controls(names, described, templates=templates, pairs=pairs, seed=arguments.seed)
    scorer = open_scorer(arguments, {}, arguments.vlm, images, torch_device(arguments.device))
    comparison = compare(
        scorer,
        systems,
        split=arguments.split,
        pairs=pairs,
        ks=ks,
        gate=arguments.gate,
        average=arguments.average,
        cache=cache_folder(arguments.cache_dir) / "texts",
    )
    say(f"{scorer.bank.vlm_name}, {len(comparison.labels)} {arguments.split} images of {images.name}, in percent:")
    counts = [count for count in scorer.bank.counts_of(arguments.split) if count]
    say(visible_accuracy(len(counts), median(counts)))
    say(comparison.table())
    for row in comparison.rows:
        if row["cut_texts"]:
            say(
                f"warning: {row['system']}: the VLM cut {row['cut_texts']} of {row['texts']} texts, which are too long."
            )
    sentences = conclusion(comparison, arguments.names)
    if sentences:
        say()
    for sentence in sentences.values():
        say(sentence)
    if arguments.out is not None:
        meta = {
            "vlm": scorer.bank.vlm_name,
            "vlm_fingerprint": scorer.bank.vlm_fingerprint,
            "dataset": images.name,
            "classes_of_dataset": len(names),
            "split": arguments.split,
            "descriptions": {label: str(path) for label, path in files.items()},
            "pairs": str(arguments.pairs) if pairs else None,
            "template": TEMPLATE,
            "template_set": list(templates),
            "conclusion": sentences,
            **{name: getattr(arguments, name) for name in _RECORDED},
        }
        with being_written(arguments.out, _CLASSIFICATION):
            comparison.write(arguments.out, meta)
            if isinstance(images, LabelledImages):
                write_atomically(arguments.out / "report.html", classification_page(comparison, meta, images))
        say(f"Written: {arguments.out}; look at {arguments.out / 'report.html'}")


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse what needs no dataset to be seen as wrong."""
    for name in ("follow_up", "sweep", "gate"):
        if getattr(arguments, name) and arguments.pairs is None:
            raise UserError(f"--{name} needs --pairs FILE, the sentences that contrast two classes.")
    if arguments.gate and arguments.split == "reward":
        raise UserError("--gate is chosen on the reward images, so it cannot be tested on them: use --split heldout.")
    if arguments.templates is not None and not arguments.templates.is_file():
        raise UserError(f"--templates {arguments.templates}: no such file; write one template a line, with {{}}.")


def _labels(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for each file of descriptions: the file's own without its suffix, or its path where that is taken."""
    stems = [path.stem for path in paths]
    labels = {
        # With its folder in any case: the path `template` is the reserved name itself.
        f"{path.parent}/{path.name}"
        if stem in _RESERVED or stem.startswith("fudd_") or stems.count(stem) > 1
        else stem: path
        for path, stem in zip(paths, stems, strict=True)
    }
    if len(labels) < len(paths):
        raise UserError("--descriptions names a file twice.")
    return labels


def _candidates(arguments: argparse.Namespace, classes: int) -> list[int]:
    """The numbers of candidates to try, ascending."""
    from ex2.zero_shot.follow_up import DEFAULT_K, check_k

    given = {
        "--follow_up": [arguments.follow_up] if arguments.follow_up else [],
        "--sweep": arguments.sweep.split(",") if arguments.sweep else [],
    }
    ks = set()
    for option, parts in given.items():
        for part in parts:
            if part.strip() != "all" and not part.strip().isdecimal():
                raise UserError(f"{option}: {part!r} is no number of candidates; write 10 or all (--sweep 2,5,10,all).")
            k = classes if part.strip() == "all" else int(part)
            check_k(k, classes, option)
            ks.add(k)
    return sorted(ks) or [min(DEFAULT_K, classes)]
