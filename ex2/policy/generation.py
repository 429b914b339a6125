"""Descriptions of classes by any policy, in memory; `ex2 generate` writes the same texts to a file."""

from __future__ import annotations

from collections.abc import Sequence

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.policy.description_file import Plan, plan_asks, sampled
from ex2.policy.source import find_policy
from ex2.texts.descriptions import Description
from ex2.texts.questions import check_questions


def generate(
    policy: str,
    class_names: Sequence[str],
    *,
    samples: int = 1,
    questions: str | None = None,
    base: bool = False,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    dataset: str = "",
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
    cache_dir: str | None = None,
    allow_pickle_formats: bool = False,
) -> list[Description]:
    """Ask a policy every question about every class.

    Args:
        policy: Run folder, adapter folder, LLM folder, hub id, or `smollm2`.
        class_names: The classes; their ids are the positions here.
        samples: Answers to each question.
        questions: Question set, or file with one question a line; None: those of the run, else the 25 of `study`.
        base: Ask the LLM below the policy's adapter instead, the control.
        max_new_tokens: Longest answer in tokens; None: that of the run, else 32.
        temperature: Of the sampling; None: that of the run, else 1.
        dataset: What the records call the set of classes.
        seed: 0 to 2**31 - 1; equal seeds and batch sizes give equal texts.
        batch_size: Answers sampled at once.
        device: Torch device; `auto` is a GPU where there is one.
        cache_dir: Folder of converted models; None: $EX2_CACHE or ~/.cache/ex2.
        allow_pickle_formats: Read weights in `.bin` files too, with torch's restricted unpickler.

    Returns:
        One record an answer, question by question; answers that stay blank after four attempts are left out.

    Raises:
        UserError: No such policy, questions about pairs of classes, or `base` for a policy without adapter.
    """
    overrides = {"questions": questions, "max_completion_length": max_new_tokens, "temperature": temperature}
    source = find_policy(policy, overrides)
    check_questions(source.questions, about_pairs=False)
    if base and source.adapter is None:
        raise UserError(f"base=True: {policy} has no adapter that could be left out.")
    source = source.base if base else source
    asks, numbers = plan_asks(class_names, source.questions, samples)
    settings = {
        "max_new_tokens": source.max_new_tokens,
        "temperature": source.temperature,
        "policy_fingerprint": source.fingerprint,
    }
    plan = Plan(dataset, asks, numbers, source.name, seed, batch_size, settings)
    generator = source.load(cache_dir=cache_dir, device=torch_device(device), allow_pickle_formats=allow_pickle_formats)
    return [
        plan.record(position, text)
        for positions, texts in sampled(plan, generator)
        for position, text in zip(positions, texts, strict=True)
        if text
    ]
