"""The `ex2` command: generate descriptions, score them, and list what can be named in options.

Heavy libraries are imported by the sub-commands that need them, so that help comes at once.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ex2.config import EX2Config, cache_folder
from ex2.errors import UserError

if TYPE_CHECKING:
    from ex2.data import LabelledImages, PlantedImages
    from ex2.rewards.scoring import TextScorer

_SPLITS = {"reward": ("reward",), "heldout": ("heldout",), "both": ("reward", "heldout")}
_MAX_SEED = 2**31 - 1


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as one line, and keeps the line breaks of descriptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `ex2` command with `argv` (None: the command line); exit status 2 for what the user can mend."""
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
    _add_generate(commands)
    _add_score(commands)
    _add_list(commands)
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="sample descriptions from a run, a LoRA adapter or a plain LLM",
        description="Ask a policy every question about every class and write its answers to a file, one JSON object a\n"
        "line. Run the same command again after an interruption, and it goes on where it stopped.",
        epilog="Examples:\n"
        "  ex2 generate runs/quickstart --out descriptions.jsonl\n"
        "  ex2 generate smollm2 --dataset folder:photos --samples 4 --vlm pictogram --out base.jsonl",
    )
    parser.add_argument(
        "policy", metavar="RUN_OR_MODEL", help="run folder, adapter folder, LLM folder, hub id, or smollm2"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON lines file to write")
    parser.add_argument("--dataset", help="classes to describe, see `ex2 list datasets`; default: the run's")
    parser.add_argument("--classes", metavar="A,B,...", help="only these classes; default: all")
    parser.add_argument("--questions", metavar="SET", help="question set or file; default: the run's, else short")
    parser.add_argument(
        "--samples", type=int, metavar="N", default=1, help="answers to each question about each class; default: 1"
    )
    parser.add_argument(
        "--max_new_tokens", type=int, metavar="N", help="longest answer in tokens; default: the run's, else 32"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature; default: the run's, else 1"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="seed of the sampling; default: 0")
    parser.add_argument("--batch_size", type=int, metavar="N", default=64, help="answers sampled at once; default: 64")
    parser.add_argument(
        "--vlm", metavar="SPEC", help="VLM that scores the answers; default: the run's; none: no scores"
    )
    parser.add_argument("--split", choices=_SPLITS, default="both", help="images to score with; default: both")
    _bank_options(parser, "; default: the run's, else ")
    parser.set_defaults(command=_generate)


def _add_score(commands: Any) -> None:
    parser = commands.add_parser(
        "score",
        help="score a file of descriptions with any VLM",
        description="Add to each description its mean cosine to the images of its class, and print the means with\n"
        "95 % intervals over classes. Held-out images are those that training never saw, provided that the split\n"
        "options are those of the run.",
        epilog="Example: ex2 score descriptions.jsonl --vlm pictogram --dataset pictograms --split heldout",
    )
    parser.add_argument("descriptions", type=Path, metavar="DESCRIPTIONS", help="file that `ex2 generate` wrote")
    parser.add_argument("--vlm", required=True, metavar="SPEC", help="see `ex2 list vlms`")
    parser.add_argument("--dataset", required=True, help="see `ex2 list datasets`")
    parser.add_argument("--split", choices=_SPLITS, default="both", help="images to score with; default: both")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write; default: DESCRIPTIONS itself")
    _bank_options(parser, "; default: ")
    parser.set_defaults(command=_score)


def _add_list(commands: Any) -> None:
    listings = {"vlms": _list_vlms, "datasets": _list_datasets, "rewards": _list_rewards, "questions": _list_questions}
    parser = commands.add_parser(
        "list",
        help="list what options can name: vlms, datasets, rewards, questions",
        description="Print what an option can name, each with one line about it.",
        epilog="Example: ex2 list questions",
    )
    parser.add_argument("what", choices=listings, help="what to list")
    parser.set_defaults(command=lambda arguments: print(listings[arguments.what]()))


def _bank_options(parser: argparse.ArgumentParser, default: str) -> None:
    base = EX2Config()
    kinds: dict[str, Any] = {"images_per_class": int, "heldout_fraction": float, "split_seed": int, "vlm_dtype": str}
    texts = {
        "images_per_class": "images of a class on each side of the split at most",
        "heldout_fraction": "share of held-out images, where the dataset has no split",
        "split_seed": "seed of the reward / held-out split",
        "vlm_dtype": "precision of the VLM's weights",
    }
    for name, kind in kinds.items():
        parser.add_argument(f"--{name}", type=kind, metavar="X", help=f"{texts[name]}{default}{getattr(base, name)}")
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="folder of banks and converted models; default: $EX2_CACHE or ~/.cache/ex2"
    )


# ---------------------------------------------------------------- commands


def _generate(arguments: argparse.Namespace) -> None:
    for name in ("samples", "batch_size", "max_new_tokens"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)} is out of range: it must be at least 1.")
    if not 0 <= arguments.seed <= _MAX_SEED:
        raise UserError(f"--seed {arguments.seed} is out of range: it must lie between 0 and {_MAX_SEED}.")
    if arguments.temperature is not None and arguments.temperature <= 0:
        raise UserError(f"--temperature {arguments.temperature} is out of range: it must be positive.")
    from ex2.answers import Plan, plan_asks, recorded, write_answers
    from ex2.data import load_images
    from ex2.generation import find_policy

    policy = find_policy(
        arguments.policy,
        {
            "questions": arguments.questions,
            "max_completion_length": arguments.max_new_tokens,
            "temperature": arguments.temperature,
        },
    )
    dataset = arguments.dataset or policy.settings.get("dataset")
    if dataset is None:
        raise UserError(f"--dataset is needed: {arguments.policy} is no run, which would name one.")
    images = load_images(dataset)
    vlm = arguments.vlm or policy.settings.get("vlm") or "none"
    asks, numbers = plan_asks(
        images.class_names, policy.questions, arguments.samples, _chosen_classes(arguments.classes, images)
    )
    plan = Plan(
        dataset=images.name,
        asks=asks,
        numbers=numbers,
        model=policy.name,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        settings={
            "max_new_tokens": policy.max_new_tokens,
            "temperature": policy.temperature,
            "policy_fingerprint": policy.fingerprint,
            "vlm": None if vlm == "none" else vlm,
        },
    )
    done = recorded(plan, arguments.out, images.class_names)
    if len(done) == len(plan):
        print(f"{arguments.out} is complete: it holds all {len(plan)} descriptions.")
        return
    device = _device(arguments.device)
    score = None
    if vlm != "none":
        from ex2.analysis.scores import add_scores

        scorer = _scorer(arguments, policy.settings, vlm, images, device)

        def score(records: list[Any]) -> list[Any]:
            return add_scores(records, scorer, _SPLITS[arguments.split])

    generator = policy.load(cache_dir=arguments.cache_dir or policy.settings.get("cache_dir"), device=device)
    blank = write_answers(plan, arguments.out, done, generator, score)
    note = f"; {blank} were left out, as all attempts at them were blank" if blank else ""
    print(f"Wrote {len(plan) - len(done) - blank} descriptions of {len({a.class_id for a in asks})} classes to "
          f"{arguments.out}, which now holds {len(plan) - blank}{note}.")  # fmt: skip


def _score(arguments: argparse.Namespace) -> None:
    from ex2.data import load_images
    from ex2.descriptions import read_descriptions, write_descriptions

    images = load_images(arguments.dataset)
    records = read_descriptions(arguments.descriptions, images.class_names)
    from ex2.analysis.scores import format_scores, score_and_summarise

    scorer = _scorer(arguments, {}, arguments.vlm, images, _device(arguments.device))
    scored, summary = score_and_summarise(records, scorer, _SPLITS[arguments.split])
    out = arguments.out or arguments.descriptions
    write_descriptions(out, scored)
    print(f"{out}: {summary.n} descriptions of {summary.classes} classes, scored by {arguments.vlm} on {images.name}")
    print(format_scores(summary))


def _chosen_classes(wanted: str | None, images: LabelledImages | PlantedImages) -> list[str] | None:
    if wanted is None:
        return None
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if not names:
        raise UserError("--classes names no class: write them as in --classes owl,tiger.")
    for name in names:
        if name not in images.class_names:
            nearest = difflib.get_close_matches(name, images.class_names, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            raise UserError(f"--classes {name} is no class of {images.name}.{hint}")
    return names


def _device(name: str) -> str:
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _scorer(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    vlm_spec: str,
    images: LabelledImages | PlantedImages,
    device: str,
) -> TextScorer:
    """The VLM and the bank of `images`; options on the command line win over a run's settings, those over defaults."""
    from ex2.bank import build_bank
    from ex2.rewards.scoring import TextScorer
    from ex2.vlm import load_vlm

    defaults = EX2Config()

    def setting(name: str) -> Any:
        given = getattr(arguments, name)
        return settings.get(name, getattr(defaults, name)) if given is None else given

    vlm = load_vlm(vlm_spec, device=device, dtype=setting("vlm_dtype"))
    bank = build_bank(
        vlm,
        images,
        heldout_fraction=setting("heldout_fraction"),
        seed=setting("split_seed"),
        max_images_per_class=setting("images_per_class"),
        cache_dir=cache_folder(setting("cache_dir")) / "banks",
    )
    vlm.release_image_tower()
    return TextScorer(vlm, bank)


def _list_vlms() -> str:
    from ex2.vlm import list_vlms

    return _table("VLM", list_vlms())


def _list_datasets() -> str:
    from ex2.data import list_datasets

    return _table("dataset", list_datasets())


def _list_rewards() -> str:
    from ex2.rewards import list_rewards

    return _table("reward", [*list_rewards(), ("package.module:function", "Your own function, see docs/rewards.md.")])


def _list_questions() -> str:
    from ex2.questions import QUESTION_SETS

    sets = [
        f"{name} ({len(questions)})\n" + "\n".join(f"  {question}" for question in questions)
        for name, questions in QUESTION_SETS.items()
    ]
    return "\n\n".join([*sets, "FILE\n  A text file with one question a line and {} for the class name."])


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in [(head, ""), *rows])
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in [(head, "what it is"), *rows])
