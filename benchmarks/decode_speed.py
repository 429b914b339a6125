"""Seconds to sample a rollout of the quickstart: `generate` and EX2's decoder, with the base held in float32 or bfloat16.

    python benchmarks/decode_speed.py [--policy smollm2] [--repeats 5] [--quick]

32 completions of 8 prompts, up to 32 tokens, from a policy with a LoRA adapter on all linear layers whose weights are random.
Where the processor multiplies in bfloat16, all sides do so by autocast; elsewhere the two ways of holding the base are one.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from _common import interleaved, paired_ratio, verdict

from ex2.launch import keep_quiet, use_cores_well

CLASSES = ("crab", "cat", "owl", "tiger", "whale", "hammer", "car", "apple")
COPIES = 4


def policy(path: str, bf16: bool) -> Any:
    """The base with a random adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ex2.policy.llm import load_base

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(load_base(path, bf16=bf16), config).eval()


def sampling(sample: Callable[..., Any], inputs: Any, settings: Any, bf16: bool) -> Callable[[int], object]:
    """Sample all prompts, under a seed that is the round's number."""
    import torch

    def work(number: int) -> object:
        autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        torch.manual_seed(number)
        with torch.no_grad(), autocast:
            return sample(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=settings
            )

    return work


def main(argv: Sequence[str] | None = None) -> None:
    """Time all sides in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="smollm2", help="folder of a model with a chat template; default: smollm2")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; default: 5")
    parser.add_argument("--quick", action="store_true", help="does the script work?")
    args = parser.parse_args(argv)
    use_cores_well()
    keep_quiet()

    from transformers import GenerationConfig

    from ex2.base.bf16 import cpu_has_bf16
    from ex2.policy.llm import load_tokenizer, resolve_model
    from ex2.rl.decoding import Decoder

    path, bf16 = resolve_model(args.policy), cpu_has_bf16()
    tokenizer = load_tokenizer(path)
    questions = [f"Describe what a {name} looks like." for name in CLASSES for _ in range(COPIES)]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in questions
    ]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=False)
    settings = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=0, top_p=1.0, max_new_tokens=4 if args.quick else 32,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    sides = {}
    for held in ("float32", "bfloat16") if bf16 else ("float32",):
        model = policy(path, held == "bfloat16")
        sides[f"generate, {held}"] = sampling(model.generate, inputs, settings, bf16)
        sides[f"decoder, {held}"] = sampling(Decoder(model), inputs, settings, bf16)
    seconds = interleaved(sides, 1 if args.quick else args.repeats)
    for name, values in seconds.items():
        print(f"{name:<22}{statistics.median(values):8.2f} s")
    last = list(sides)[-1]
    print(
        verdict(f"{last} / generate, float32", paired_ratio(seconds[last], seconds["generate, float32"]), at_most=0.8)
    )


if __name__ == "__main__":
    main()
