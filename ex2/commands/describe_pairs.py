"""`ex2 describe-pairs`: sentences that contrast the classes a VLM confuses."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.files import check_writable
from ex2.base.shown import say, shell_line, some_of
from ex2.commands.common import (
    bank_options,
    check_policy_fetched,
    chosen_policy,
    fetch_option,
    needed_spec,
    open_scorer,
    output_file,
    sampling_options,
    sampling_plan,
)

if TYPE_CHECKING:
    from ex2.policy.source import PolicySource

_MOST = 10


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "describe-pairs",
        help="write sentences that contrast the classes a VLM confuses",
        description="Find the pairs of classes that a VLM confuses most on reward images, ask a policy to contrast the two\n"
        "attribute by attribute, and write its sentences in FuDD's format: FILE, and the class names in order beside it\n"
        "(pairs.classes.json for pairs.json). Answers are kept in a third file (pairs.jsonl) as they come: run the same\n"
        "command again after an interruption, and it goes on where it stopped. At the end it prints how well the\n"
        "sentences tell the images of the pairs apart.",
        epilog="Examples:\n"
        "  ex2 describe-pairs runs/pairs --out pairs.json\n"
        "  ex2 describe-pairs runs/pairs --base --out base.json     # the control: its LLM without the adapter\n"
        "  ex2 describe-pairs smollm2 --dataset pictograms --vlm pictogram --most 20 --out smollm2.json",
    )
    parser.add_argument(
        "policy", metavar="RUN_OR_MODEL", help="run folder, adapter folder, LLM folder, hub id, or smollm2"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write, ending in .json")
    parser.add_argument("--dataset", help="classes and images, see `ex2 list datasets`; default: the run's")
    parser.add_argument("--vlm", metavar="SPEC", help="VLM whose confusions count; default: the run's")
    parser.add_argument(
        "--most", type=int, metavar="N", help=f"how many pairs; default: as many as the run trained on, else {_MOST}"
    )
    parser.add_argument(
        "--questions", metavar="SET", help="set or file with {} and {other}; default: the run's, else pairs (6)"
    )
    sampling_options(parser)
    fetch_option(parser, "RUN_OR_MODEL")
    bank_options(parser, "; default: the run's, else ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Find pairs, sample, write, and print the pair accuracy."""
    answers = _answers_path(arguments.out)
    check_writable(arguments.out, "--out")
    with output_file(answers):
        _describe(arguments, answers)


def _describe(arguments: argparse.Namespace, answers: Path) -> None:
    from ex2.data import load_images
    from ex2.zero_shot.confusion import check_pair_count, confused_pairs

    policy = _about_pairs(chosen_policy(arguments), arguments)
    dataset, vlm = needed_spec("dataset", arguments, policy), needed_spec("vlm", arguments, policy)
    check_policy_fetched(arguments, policy, vlm)
    most = arguments.most if arguments.most is not None else policy.settings.get("pairs") or _MOST
    images = load_images(dataset)
    names = images.class_names
    check_pair_count(most, len(names), "--most ")
    device = torch_device(arguments.device)
    scorer = open_scorer(arguments, policy.settings, vlm, images, device)

    from ex2.policy.description_file import plan_asks, recorded, write_answers
    from ex2.texts.descriptions import read_descriptions
    from ex2.texts.pairs import both_ways, pair_texts, write_pairs
    from ex2.zero_shot.pair_accuracy import format_table, name_texts, score_pairs, summarise

    found = confused_pairs(scorer, most)
    named = [f"{' / '.join(names[i] for i in pair.classes)} ({pair.error:.0%})" for pair in found]
    say(f"Confused most, with the share of their images that are nearer to the other's name: {some_of(named)}.")
    confused = [pair.classes for pair in found]
    asks = plan_asks(names, policy.questions, arguments.samples, pairs=both_ways(confused))
    plan = sampling_plan(arguments, policy, images.name, asks, vlm=vlm)
    done = recorded(plan, answers, names)
    if len(done) < len(plan):
        generator = policy.load(
            cache_dir=arguments.cache_dir or policy.settings.get("cache_dir"),
            device=device,
            allow_pickle_formats=arguments.allow_pickle_formats,
        )
        write_answers(plan, answers, done, generator)
    written = pair_texts(read_descriptions(answers, names, allow_partial_last_line=True), names)
    if not written.pairs:
        raise UserError(
            f"{arguments.policy} answered no question about both classes of a pair: there is nothing to write."
        )
    write_pairs(arguments.out, written)

    pairs = [pair for pair in confused if pair in written.pairs]
    sentences = sum(map(len, written.about().values()))
    systems = [
        score_pairs("template", scorer, name_texts(names, pairs), pairs),
        score_pairs(arguments.out.name, scorer, written.about(), pairs),
    ]
    say(format_table(summarise(systems, names, pairs)))
    classify = shell_line("ex2", "classify", "--vlm", vlm, "--dataset", dataset, "--pairs", arguments.out)
    say(f"{arguments.out}: {sentences} sentences about {len(pairs)} of the {most} pairs that {vlm} confuses most. "
        f"Next: `{classify}`.")  # fmt: skip


def _answers_path(out: Path) -> Path:
    """The file that keeps the answers to `out`'s questions as they come."""
    if out.suffix != ".json":
        raise UserError(f"--out {out} must end in .json: the answers go to a file beside it that ends in .jsonl.")
    answers = out.with_suffix(".jsonl")
    if out.exists() and not answers.exists():
        raise UserError(f"--out {out} exists, but {answers}, which it would come from, does not: name another file.")
    return answers


def _about_pairs(policy: PolicySource, arguments: argparse.Namespace) -> PolicySource:
    """The policy with questions about pairs."""
    from ex2.texts.questions import QUESTION_SETS, check_questions

    if arguments.questions is None and not any("{other}" in question for question in policy.questions):
        policy = replace(policy, questions=QUESTION_SETS["pairs"])
    check_questions(policy.questions, about_pairs=True)
    return policy
