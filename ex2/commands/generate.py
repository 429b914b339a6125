"""`ex2 generate`: sample descriptions from a run, a LoRA adapter or a plain LLM."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError, did_you_mean
from ex2.base.shown import say, shell_line
from ex2.commands.common import (
    SPLITS,
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
from ex2.policy.sampler_vllm import require_vllm

if TYPE_CHECKING:
    from ex2.data import LabelledImages, PlantedImages


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "generate",
        help="sample descriptions from a run, a LoRA adapter or a plain LLM",
        description="Ask a policy every question about every class and write its answers to a file, one JSON object a\n"
        "line. Run the same command again after an interruption, and it goes on where it stopped.",
        epilog="Examples:\n"
        "  ex2 generate runs/quickstart --out descriptions.jsonl\n"
        "  ex2 generate runs/quickstart --base --out base.jsonl     # the control: its LLM without the adapter\n"
        "  ex2 generate smollm2 --dataset folder:photos --samples 4 --vlm pictogram --out base.jsonl",
    )
    parser.add_argument(
        "policy", metavar="RUN_OR_MODEL", help="run folder, adapter folder, LLM folder, hub id, or smollm2"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON lines file to write")
    parser.add_argument("--dataset", help="classes to describe, see `ex2 list datasets`; default: the run's")
    parser.add_argument("--classes", metavar="A,B,...", help="only these classes; default: all")
    parser.add_argument("--questions", metavar="SET", help="question set or file; default: the run's, else study (25)")
    parser.add_argument(
        "--engine", choices=("transformers", "vllm"), default="transformers", help="what samples; default: transformers"
    )
    sampling_options(parser)
    parser.add_argument(
        "--vlm", metavar="SPEC", help="VLM that scores the answers; default: the run's; none: no scores"
    )
    parser.add_argument("--split", choices=SPLITS, default="both", help="images to score with; default: both")
    fetch_option(parser, "RUN_OR_MODEL")
    bank_options(parser, "; default: the run's, else ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Sample, score and write."""
    if arguments.engine == "vllm":
        require_vllm()
    with output_file(arguments.out):
        _generate(arguments)


def _generate(arguments: argparse.Namespace) -> None:
    from ex2.data import load_images
    from ex2.policy.description_file import plan_asks, recorded, write_answers
    from ex2.texts.questions import check_questions

    policy = chosen_policy(arguments)
    check_questions(policy.questions, about_pairs=False)
    vlm = arguments.vlm or policy.settings.get("vlm") or "none"
    check_policy_fetched(arguments, policy, vlm)
    images = load_images(needed_spec("dataset", arguments, policy))
    asks = plan_asks(
        images.class_names, policy.questions, arguments.samples, _chosen_classes(arguments.classes, images)
    )
    engine = {"engine": arguments.engine} if arguments.engine != "transformers" else {}
    plan = sampling_plan(arguments, policy, images.name, asks, **engine, vlm=None if vlm == "none" else vlm)
    done = recorded(plan, arguments.out, images.class_names)
    if len(done) == len(plan):
        say(f"{arguments.out} is complete: it holds all {len(plan)} descriptions.{_what_next(arguments, vlm)}")
        return
    device = torch_device(arguments.device)
    score = None
    if vlm != "none":
        from ex2.analysis.description_scores import add_scores

        scorer = open_scorer(arguments, policy.settings, vlm, images, device)

        def score(records: list[Any]) -> list[Any]:
            return add_scores(records, scorer, SPLITS[arguments.split])

    cache_dir, allowed = arguments.cache_dir or policy.settings.get("cache_dir"), arguments.allow_pickle_formats
    generator: Any = (
        policy.load_vllm(plan.asks, cache_dir=cache_dir, allow_pickle_formats=allowed)
        if arguments.engine == "vllm"
        else policy.load(cache_dir=cache_dir, device=device, allow_pickle_formats=allowed)
    )
    blank = write_answers(plan, arguments.out, done, generator, score)
    note = f"; {blank} were left out, as all attempts at them were blank" if blank else ""
    say(f"Wrote {len(plan) - len(done) - blank} descriptions of {len({a.class_id for a in plan.asks})} classes to "
          f"{arguments.out}, which now holds {len(plan) - blank}{note}.{_what_next(arguments, vlm)}")  # fmt: skip


def _what_next(arguments: argparse.Namespace, vlm: str) -> str:
    """The command that reads the descriptions; nothing about the control, and where there is no VLM, which it needs."""
    if arguments.base or vlm == "none":
        return ""
    return f" Next: `{shell_line('ex2', 'analyze', arguments.out, '--out', arguments.out.parent / 'analysis')}`."


def _chosen_classes(wanted: str | None, images: LabelledImages | PlantedImages) -> list[str] | None:
    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise UserError("--classes names no class: write them as in --classes owl,tiger.")
    for name in names:
        if name not in images.class_names:
            hint = did_you_mean(name, images.class_names)
            raise UserError(f"--classes {name} is no class of {images.name}.{hint}")
    return names
