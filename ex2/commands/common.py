"""What several commands share: options of the image bank, device, and the scorer they lead to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError
from ex2.base.files import check_writable, parse_json
from ex2.base.locks import alone_at
from ex2.options.ex2_options import EX2Config

if TYPE_CHECKING:
    from ex2.data import LabelledImages, PlantedImages
    from ex2.policy.asks import Ask
    from ex2.policy.description_file import Plan
    from ex2.policy.source import PolicySource
    from ex2.scoring.scorer import TextScorer

SPLITS = {"reward": ("reward",), "heldout": ("heldout",), "both": ("reward", "heldout")}


def switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add an option that is true or false, as training options are."""
    parser.add_argument(f"--{name}", type=_truth, default=False, metavar="true", help=f"{text}; default: false")


def _truth(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false") from None


def pickle_option(parser: argparse.ArgumentParser) -> None:
    switch(parser, "allow_pickle_formats", "read weights in .bin, .pt and .pth files too, which can hold code")


def fetch_option(parser: argparse.ArgumentParser, file: str) -> None:
    switch(parser, "fetch", f"fetch models and datasets that {file} names and this machine never had")


def check_fetched(arguments: argparse.Namespace, file: object, named: Mapping[str, str | None]) -> None:
    """Ask before anything comes from the network because a file, which others may have written, names it.

    Args:
        arguments: The command line, which may allow it (`fetch`).
        file: The file or folder.
        named: By the option that would name the same: what it comes from (`source_of_vlm` and the like), None: this machine.

    Raises:
        UserError: Something would be fetched, and that is not allowed.
    """
    if arguments.fetch:
        return
    if wanted := {option: source for option, source in named.items() if source is not None}:
        listed = " and ".join(f"{source} (--{option})" for option, source in wanted.items())
        raise UserError(
            f"{file} names what this machine does not have: {listed}. Name it yourself, or let it be fetched (--fetch true)."
        )


def bank_options(parser: argparse.ArgumentParser, default: str) -> None:
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
    parser.add_argument(
        "--class_names",
        metavar="FILE",
        help="names of the classes of --dataset, one a line in their order, or `CLASS name`",
    )
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="folder of banks and converted models; default: $EX2_CACHE or ~/.cache/ex2"
    )
    pickle_option(parser)


def aliases_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aliases",
        type=Path,
        metavar="FILE",
        help="what files call the dataset's classes, lines `NAME = CLASS`; default: names are matched (docs/classify.md)",
    )


def sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", action="store_true", help="ask the run's base LLM in the same way, without the adapter"
    )
    parser.add_argument("--samples", type=int, metavar="N", default=1, help="answers to each question; default: 1")
    parser.add_argument(
        "--max_new_tokens", type=int, metavar="N", help="longest answer in tokens; default: the run's, else 32"
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature; default: the run's, else 1"
    )
    parser.add_argument(
        "--chat_template_kwargs",
        type=_json_object,
        metavar="JSON",
        help="""arguments of the chat template, such as '{"enable_thinking": false}'; default: the run's""",
    )
    parser.add_argument(
        "--base_model", metavar="MODEL", help="base LLM of an adapter, where it has moved or the adapter names none"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="seed of the sampling; default: 0")
    parser.add_argument("--batch_size", type=int, metavar="N", default=64, help="answers sampled at once; default: 64")


def _json_object(text: str) -> dict[str, Any]:
    """The value of an option that is a JSON object."""
    try:
        value = parse_json(text.encode())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def chosen_policy(arguments: argparse.Namespace) -> PolicySource:
    """The policy that the command line names, or with `--base` the LLM below its adapter; nothing is loaded.

    Raises:
        UserError: There is no such policy, or `--base` for one without adapter.
    """
    from ex2.policy.source import find_policy

    policy = find_policy(
        arguments.policy,
        {
            "questions": arguments.questions,
            "max_completion_length": arguments.max_new_tokens,
            "temperature": arguments.temperature,
            "chat_template_kwargs": arguments.chat_template_kwargs,
            "model_name_or_path": arguments.base_model,
        },
    )
    if arguments.base_model is not None and policy.adapter is None:
        raise UserError(f"--base_model: {arguments.policy} is no adapter, but a model itself.")
    if arguments.base and policy.adapter is None:
        raise UserError(f"--base: {arguments.policy} has no adapter that could be left out.")
    return policy.base if arguments.base else policy


def check_policy_fetched(arguments: argparse.Namespace, policy: PolicySource, vlm: str) -> None:
    """`check_fetched` for what a run or an adapter names and the command line does not: base model, dataset and VLM."""
    from ex2.data.specs import source_of_dataset
    from ex2.vlm.specs import source_of_vlm

    dataset = policy.settings.get("dataset")
    named = {
        "base_model": policy.fetched_from
        if arguments.base_model is None and policy.base.name != arguments.policy
        else None,
        "dataset": source_of_dataset(dataset) if arguments.dataset is None and dataset is not None else None,
        "vlm": source_of_vlm(vlm) if arguments.vlm is None and vlm != "none" else None,
    }
    check_fetched(arguments, arguments.policy, named)


def needed_spec(name: str, arguments: argparse.Namespace, policy: PolicySource) -> str:
    """The option `name` of the command line, else of the run.

    Raises:
        UserError: There is neither.
    """
    value = getattr(arguments, name) or policy.settings.get(name)
    if value is None:
        raise UserError(f"--{name} is needed: {arguments.policy} is no run, which would name one.")
    return str(value)


def sampling_plan(
    arguments: argparse.Namespace,
    policy: PolicySource,
    dataset: str,
    asks_and_numbers: tuple[tuple[Ask, ...], tuple[int, ...]],
    **settings: Any,
) -> Plan:
    """What to ask `policy`, given what `plan_asks` made, and what records say about how it was asked."""
    from ex2.policy.description_file import Plan

    asks, numbers = asks_and_numbers
    return Plan(
        dataset=dataset,
        asks=asks,
        numbers=numbers,
        model=policy.name,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        settings={
            "max_new_tokens": policy.max_new_tokens,
            "temperature": policy.temperature,
            "policy_fingerprint": policy.fingerprint,
            **settings,
        },
    )


@contextmanager
def output_file(path: Path, option: str = "--out") -> Iterator[None]:
    """Keep a file for this process, once it has been seen that it can be written.

    Raises:
        UserError: It cannot, or another process writes it.
    """
    check_writable(path, option)
    with alone_at(path, option):
        yield


def open_scorer(
    arguments: argparse.Namespace,
    settings: dict[str, Any],
    vlm_spec: str,
    images: LabelledImages | PlantedImages,
    device: str,
) -> TextScorer:
    """The VLM and the bank of `images`; options on the command line win over a run's settings, those over defaults."""
    from ex2.scoring.bank import build_bank
    from ex2.scoring.scorer import TextScorer
    from ex2.vlm import load_vlm

    defaults = EX2Config()

    def setting(name: str) -> Any:
        given = getattr(arguments, name)
        return settings.get(name, getattr(defaults, name)) if given is None else given

    vlm = load_vlm(
        vlm_spec, device=device, dtype=setting("vlm_dtype"), allow_pickle_formats=arguments.allow_pickle_formats
    )
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
