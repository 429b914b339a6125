"""PPO of a 7B policy on a GPU with random weights: seconds a step by part against what the device could do, and correctness.

    python -m benchmarks.gpu.step [--batches 32 256]      # one GPU with 40 GB or more; under 9 minutes
    python -m benchmarks.gpu.step --only correctness      # or speed
    python -m benchmarks.gpu.step --tiny                  # a tiny policy on the CPU: does the script work?

Policy: the Mistral-7B architecture in bfloat16 with LoRA r 16, prompts of about 20 tokens, 32 new tokens, 4 epochs, one update an
epoch. Reward: the cosine of a ViT-L/14-size text tower in float32. Monitors and the sample log are on. A part's floor is what it
would take at the peaks measured in the same run: each decoding step reads all weights once, or multiplies at the peak,
whichever takes longer; a pass forward multiplies 2 FLOPs a weight and token, forward and backward with frozen weights 4. All
tokens count, also those that EX2 computes once for several texts.

Correctness: a small policy with random adapter and value head, the same on both sides, on the device in float32 and bfloat16
against the CPU in float32: log-probs, reference log-probs, values, rewards, gradient of the PPO loss, greedy tokens. Where they
differ by more than the tolerance, the script ends with status 1; a missed target of speed is no error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT, Profile, random_open_clip, verdict
from benchmarks.gpu._shared import (
    PAD,
    QUESTION,
    Rows,
    build,
    clear,
    decoding_floor,
    device_peaks,
    draw_trained,
    peak_gib,
    random_policy,
    wait,
)

TARGETS = {32: 3.0, 256: 1.7}  # times the floor


# ---------------------------------------------------------------- speed


def floors(
    weights: int, bytes_a_weight: int, samples: int, prompt: int, tokens: int, epochs: int, peaks: tuple[float, float]
) -> dict[str, float]:
    """Least seconds of each part of a step at the device's peaks."""
    forward = 2 * weights * samples * (prompt + tokens) / peaks[0]
    return {
        "generation": decoding_floor(weights, bytes_a_weight, samples, prompt, tokens, peaks),
        "old log-probs and values": forward,
        "reference log-probs": forward,
        "forward and backward": 2 * forward * epochs,
    }


def trainer_for_speed(args: argparse.Namespace, batch: int, folder: str) -> tuple[Any, Any]:
    """A trainer that takes a few steps of `batch` completions each, and its options."""
    vlm = random_open_clip("ViT-S-32-alt" if args.tiny else "ViT-L-14", args.device)
    vlm.release_image_tower()
    micro = min(args.micro_batch, batch)
    return build(
        random_policy(*(("tiny", args.device, "float32") if args.tiny else ("7b", args.device, "bfloat16"))),
        vlm,
        folder,
        classes=max(200, batch),  # one question each: as many as a rollout asks
        per_device_train_batch_size=micro,
        steps_per_generation=batch // micro,
        gradient_accumulation_steps=batch // micro,
        num_iterations=args.epochs,
        max_steps=args.epochs * (args.steps + args.warm_up),
        max_completion_length=args.tokens,
    )


def least_seconds(args: argparse.Namespace, trainer: Any, batch: int, peaks: tuple[float, float]) -> dict[str, float]:
    """The floors of a trainer's parts."""
    base = trainer.model.get_base_model()
    weights = sum(
        p.numel() for name, p in base.named_parameters() if "lora_" not in name and "embed_tokens" not in name
    )
    prompt = len(trainer.processing_class(QUESTION.format("class 1"))["input_ids"])
    return floors(weights, base.dtype.itemsize, batch, prompt, args.tokens, args.epochs, peaks)


def speed(args: argparse.Namespace, batch: int) -> None:
    """Time a few steps of one batch size and print where the time goes."""
    import torch

    peaks = device_peaks(args.device, torch.float32 if args.tiny else torch.bfloat16, args.tiny)
    profile = Profile(partial(wait, args.device))
    with tempfile.TemporaryDirectory() as folder:
        trainer, options = trainer_for_speed(args, batch, folder)
        profile.watch(trainer, options.updates_per_rollout, skip=args.warm_up)
        clear(args.device)
        trainer.train()
    memory = peak_gib(args.device)
    least = least_seconds(args, trainer, batch, peaks)

    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(f"batch {batch}, {name}: {peaks[0] / 1e12:.3g} TFLOP/s, {peaks[1] / 1e12:.3g} TB/s measured")
    print(f"{'part':<32}{'s a step':>10}{'share':>8}{'floor':>10}{'of the peak':>13}")
    for part, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        peak = f"{least[part]:>10.4f}{least[part] * profile.steps / seconds:>13.0%}" if part in least else ""
        print(f"{part:<32}{seconds / profile.steps:>10.4f}{profile.share(part):>8.1%}{peak}")
    step = sum(profile.seconds.values()) / profile.steps
    floor = sum(least.values())
    # A rollout and two passes of scoring multiply as much as a forward pass each, an epoch twice as much.
    multiplying = least["reference log-probs"] * (3 + 2 * args.epochs)
    print(f"{step:.3f} s a step, floor {floor:.3f} s, ratio {step / floor:.2f}; peak memory {memory:.1f} GiB")
    sampled = batch * args.tokens / step
    print(
        f"{sampled:.0f} tokens sampled and {sampled * args.epochs:.0f} trained a second, MFU {multiplying / step:.0%}",
        flush=True,
    )
    Rows(args.out).add(
        batch=batch,
        tokens=args.tokens,
        epochs=args.epochs,
        steps=profile.steps,
        seconds=profile.seconds,
        floors=least,
        multiplying=multiplying,
        peak_gib=memory,
        peaks=peaks,
    )
    if batch in TARGETS:
        print(verdict(f"batch {batch}: times the floor", step / floor, at_most=TARGETS[batch]), flush=True)


# ---------------------------------------------------------------- correctness


def fixed_samples(random: Any, count: int, prompt: int, tokens: int) -> dict[str, Any]:
    """What a PPO update reads, from random numbers: padded on both sides, and with a beginning that prompts share."""
    import torch

    ids = torch.randint(3, 4000, (count, prompt + tokens), generator=random)
    ids[1:, :6] = ids[0, 2:8]  # what all prompts begin with
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[1, -3:] = 0
    return {
        "prompt_ids": ids[:, :prompt],
        "prompt_mask": mask[:, :prompt],
        "completion_ids": ids[:, prompt:],
        "completion_mask": mask[:, prompt:],
        "advantages": torch.randn(count, tokens, generator=random),
        "returns": torch.randn(count, tokens, generator=random),
        "old_values": torch.zeros(count, tokens),
        "score": torch.randn(count, generator=random),
        "num_items_in_batch": mask[:, prompt:].sum(),
    }


def trainer_outputs(trainer: Any, batch: dict[str, Any], learned: Sequence[Any]) -> dict[str, Any]:
    """What the parts of a PPO step say about `batch`."""
    import torch

    from ex2.rl.rollout import Texts

    model = trainer.model.eval()
    count, tokens = batch["completion_ids"].shape
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    with torch.no_grad():
        policy = trainer._score(model, Texts.of(batch))
        reference = trainer._reference_logps(Texts.of(batch), count)
        greedy = model.generate(
            batch["prompt_ids"],
            attention_mask=batch["prompt_mask"],
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=PAD,
        )
    rewards = trainer.reward_funcs[0](
        prompts=[""] * count, completions=trainer.processing_class.batch_decode(ids), class_id=list(range(count))
    )
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(model, {**batch, "old_per_token_logps": policy.logps}).backward()
    own = batch["completion_mask"].bool()
    return {
        "log-probs": policy.logps[own],
        "reference log-probs": reference[own],
        "values": policy.values[own],
        "cosines": torch.tensor(rewards) / 100,
        "gradient": torch.cat([parameter.grad.flatten() for parameter in learned]),
        "greedy tokens": greedy,
    }


def outputs(device: str, dtype: str, size: str) -> dict[str, Any]:
    """Outputs of a PPO step on fixed samples, on the CPU in float32; equal on every device up to rounding."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    vlm = random_open_clip("ViT-S-32-alt", device)
    count, prompt, tokens = 4, 10, 8
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = build(
            random_policy(size, device, dtype),
            vlm,
            folder,
            per_device_train_batch_size=count,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            num_iterations=1,
            max_steps=1,
            max_completion_length=tokens,
        )
        random = torch.Generator().manual_seed(1)
        learned = draw_trained(trainer.model, random)
        batch = {name: value.to(device) for name, value in fixed_samples(random, count, prompt, tokens).items()}
        found = trainer_outputs(trainer, batch, learned)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def compare(found: dict[str, Any], expected: dict[str, Any], what: str, tolerance: float) -> bool:
    """Print the relative error of each output, length of the difference to length of what is expected; are all small?"""
    agree = True
    for name, value in found.items():
        if name == "greedy tokens":
            print(f"{what}, greedy tokens that are equal: {(value == expected[name]).float().mean():.0%}")
        else:
            error = float((value - expected[name]).norm() / expected[name].norm())
            agree &= error <= tolerance
            print(verdict(f"{what}, {name}: relative error", error, at_most=tolerance), flush=True)
    return agree


def correctness(args: argparse.Namespace) -> bool:
    """Compare the device with the CPU, each side in a process of its own; do they agree?"""
    import torch

    if args.tiny:
        sides = (outputs("cpu", dtype, "tiny") for dtype in ("bfloat16", "float32"))
        return compare(*sides, "cpu bfloat16", tolerance=0.05)
    with tempfile.TemporaryDirectory() as folder:
        places = {
            "expected": ("cpu", "float32"),
            "float32": (args.device, "float32"),
            "bf16": (args.device, "bfloat16"),
        }
        for name, place in places.items():
            run_part(args, "outputs", *place, f"{folder}/{name}.pt")
        expected, float32, bf16 = (torch.load(f"{folder}/{name}.pt") for name in places)
    agrees = compare(float32, expected, f"{args.device} float32", tolerance=1e-3)
    return compare(bf16, expected, f"{args.device} bfloat16", tolerance=0.05) and agrees


# ---------------------------------------------------------------- command


def run_part(args: argparse.Namespace, *part: str) -> None:
    """One part in a process of its own, so that it begins with an empty device."""
    sizes = [
        f"--{name}={getattr(args, name)}" for name in ("device", "tokens", "epochs", "steps", "warm_up", "micro_batch")
    ]
    out = ["--out", str(args.out)] if args.out else []
    command = [sys.executable, "-m", "benchmarks.gpu.step", *sizes, *out, "--part", *part]
    result = subprocess.run(command, cwd=ROOT, check=False)
    if result.returncode:
        raise SystemExit(f"FAIL: {' '.join(part)} ended with status {result.returncode}")


def do_part(args: argparse.Namespace) -> None:
    """What `run_part` asked for."""
    import torch

    if args.part[0] == "speed":
        speed(args, int(args.part[1]))
    else:
        _, device, dtype, path = args.part
        torch.save(outputs(device, dtype, "small"), path)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--only", choices=["correctness", "speed"], help="default: both")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256], help="completions a step; default: 32 256")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens; default: 32")
    parser.add_argument("--epochs", type=int, default=4, help="default: 4")
    parser.add_argument("--steps", type=int, default=5, help="steps that count; default: 5")
    parser.add_argument("--warm_up", type=int, default=2, help="steps before them; default: 2")
    parser.add_argument(
        "--micro_batch", type=int, default=32, help="completions a forward and backward pass; default: 32"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny policy on the CPU: does the script work?")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers of speed; of one batch size")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        do_part(args)
        return
    if args.out and len(args.batches) > 1:
        parser.error("--out takes the numbers of one batch size: name it with --batches")
    if args.tiny:
        args.device, args.batches = "cpu", [4]
        args.tokens, args.epochs, args.steps, args.warm_up = 4, 1, 1, 1
    agrees = args.only == "speed" or correctness(args)
    if args.only != "correctness":
        for batch in args.batches:
            if args.tiny:
                speed(args, batch)
            else:
                run_part(args, "speed", str(batch))
    if not agrees:
        raise SystemExit("FAIL: the device does not compute what the CPU computes")


if __name__ == "__main__":
    main()
