"""PPO of a 7B policy on a GPU with random weights: seconds a step by part against what the device could do, and correctness.

    python benchmarks/gpu.py [--batches 32 256]      # one GPU with 40 GB or more; under 9 minutes
    python benchmarks/gpu.py --tiny                  # a tiny policy on the CPU: does the script work?

Policy: the Mistral-7B architecture in bfloat16 with LoRA r 16, prompts of about 20 tokens, 32 new tokens, 4 epochs, one update an
epoch. Reward: the cosine of a ViT-L/14-size text tower in float32. Monitors and the sample log are on. A part's floor is what it
would take at the peaks measured in the same run: each decoding step reads all weights once, or multiplies at the peak,
whichever takes longer; a pass forward multiplies 2 FLOPs a weight and token, forward and backward with frozen weights 4. All
tokens count, also those that EX2 computes once for several texts.

Correctness: a small policy with random adapter and value head, the same on both sides, on the device in float32 and bfloat16
against the CPU in float32: log-probs, reference log-probs, values, rewards, gradient of the PPO loss, greedy tokens.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from _common import Profile, peak_memory, random_bank, random_open_clip, verdict

QUESTION = "Describe what a {} looks like in one short sentence , so that someone who never saw one would know it ."
TARGETS = {32: 3.0, 256: 1.7}  # times the floor


def policy_config(size: str) -> Any:
    """`7b`: Mistral-7B. `small`: what two sides are compared on. `tiny`: seconds on a CPU."""
    from transformers import MistralConfig

    sizes: dict[str, dict[str, Any]] = {
        "7b": {},
        "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8},
        "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    few: dict[str, Any] = {} if size == "7b" else {"vocab_size": 4000, "num_key_value_heads": 2}
    return MistralConfig(**sizes[size], **few, bos_token_id=None, eos_token_id=1, pad_token_id=0)


def word_tokenizer(size: int) -> Any:
    """A tokenizer of whole words, each of which is one token of CLIP's too: its texts are as long as real ones for both."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    clip = open_clip.get_tokenizer("ViT-L-14").encoder
    words = [word.removesuffix("</w>") for word in clip if word.endswith("</w>") and word[:-4].isalpha()]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<end>", "<unk>", *words][:size])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **specials)


def build(size: str, vlm: Any, device: str, dtype: str, folder: str, **options: Any) -> tuple[Any, Any]:
    """EX2's own PPO trainer, and its options, for a policy with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from ex2.options.parse import parse_options
    from ex2.policy.sampler import TextGenerator
    from ex2.run.trainers import build_trainer
    from ex2.scoring import TextScorer
    from ex2.texts.questions import build_prompts

    config = policy_config(size)
    torch.manual_seed(0)
    # 7B weights are drawn where and as they are to be; small ones on the CPU in float32, so that every device has the same.
    large = size == "7b"
    with torch.device(device if large else "cpu"):
        policy = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype if large else "float32"))
    policy = policy.to(device=device, dtype=getattr(torch, dtype))
    tokenizer = word_tokenizer(config.vocab_size)
    bank = random_bank(vlm, classes=200, images=4)
    line: dict[str, Any] = {
        "output_dir": folder,
        "model_name_or_path": "random",
        "dtype": dtype,
        "bf16": dtype == "bfloat16",
        "use_cpu": device == "cpu",
        "lora_r": 16,
        "before_after": False,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        **options,
    }
    parsed = parse_options("ppo", [part for name, value in line.items() for part in (f"--{name}", str(value))])
    length = int(parsed.trainer.max_completion_length)
    generator = TextGenerator(policy, tokenizer, chat=False, system_prompt=None, max_new_tokens=length)
    prompts = build_prompts(bank.class_names, [QUESTION], chat=False, system_prompt=None)
    return build_trainer(parsed, generator, prompts, TextScorer(vlm, bank), None), parsed


# ---------------------------------------------------------------- speed


def best_rate(work: Callable[[], object], amount: float, synchronize: Callable[[], object], times: int) -> float:
    """`amount` a second of `work`: the best of a few rounds."""
    rates = []
    for _ in range(4):
        synchronize()
        start = time.perf_counter()
        for _ in range(times):
            work()
        synchronize()
        rates.append(amount * times / (time.perf_counter() - start))
    return max(rates)


def device_peaks(device: str, dtype: Any, synchronize: Callable[[], object], tiny: bool) -> tuple[float, float]:
    """FLOPs a second of a large matrix product, and bytes a second of a copy (read and written)."""
    import torch

    size, times = (256, 1) if tiny else (8192, 20)
    a = torch.randn(size, size, device=device, dtype=dtype)
    flops = best_rate(lambda: a @ a, 2 * size**3, synchronize, times)
    source = torch.zeros(size**2 * 8, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size()
    return flops, best_rate(lambda: target.copy_(source), copied, synchronize, times)


def floors(
    weights: int, bytes_a_weight: int, samples: int, prompt: int, tokens: int, epochs: int, peaks: tuple[float, float]
) -> dict[str, float]:
    """Least seconds of each part of a step at the device's peaks."""
    flops, bandwidth = peaks
    forward = 2 * weights * samples * (prompt + tokens) / flops
    decoding = max(tokens * weights * bytes_a_weight / bandwidth, 2 * weights * samples * tokens / flops)
    return {
        "generation": decoding + 2 * weights * samples * prompt / flops,
        "old log-probs and values": forward,
        "reference log-probs": forward,
        "forward and backward": 2 * forward * epochs,
    }


def speed(args: argparse.Namespace, batch: int) -> None:
    """Time a few steps of one batch size and print where the time goes."""
    import torch

    cuda = args.device.startswith("cuda")
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    dtype = torch.float32 if args.tiny else torch.bfloat16
    peaks = device_peaks(args.device, dtype, synchronize, args.tiny)
    vlm = random_open_clip("ViT-S-32-alt" if args.tiny else "ViT-L-14", args.device)
    vlm.release_image_tower()
    micro = min(args.micro_batch, batch)
    profile = Profile(synchronize)
    with tempfile.TemporaryDirectory() as folder:
        trainer, options = build(
            "tiny" if args.tiny else "7b",
            vlm,
            args.device,
            str(dtype).removeprefix("torch."),
            folder,
            per_device_train_batch_size=micro,
            steps_per_generation=batch // micro,
            gradient_accumulation_steps=batch // micro,
            num_iterations=args.epochs,
            max_steps=args.epochs * (args.steps + args.warm_up),
            max_completion_length=args.tokens,
        )
        profile.watch(trainer, options.updates_per_rollout, skip=args.warm_up)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else peak_memory()
    base = trainer.model.get_base_model()
    weights = sum(
        p.numel() for name, p in base.named_parameters() if "lora_" not in name and "embed_tokens" not in name
    )
    prompt = len(trainer.processing_class(QUESTION.format("class 1"))["input_ids"])
    least = floors(weights, dtype.itemsize, batch, prompt, args.tokens, args.epochs, peaks)

    name = torch.cuda.get_device_name() if cuda else "CPU"
    print(f"batch {batch}, {name}: {peaks[0] / 1e12:.3g} TFLOP/s, {peaks[1] / 1e12:.3g} TB/s measured")
    print(f"{'part':<32}{'s a step':>10}{'share':>8}{'floor':>10}{'of the peak':>13}")
    for part, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        peak = f"{least[part]:>10.4f}{least[part] * profile.steps / seconds:>13.0%}" if part in least else ""
        print(f"{part:<32}{seconds / profile.steps:>10.4f}{profile.share(part):>8.1%}{peak}")
    step = sum(profile.seconds.values()) / profile.steps
    floor = sum(least.values())
    print(
        f"{step:.3f} s a step, floor {floor:.3f} s, ratio {step / floor:.2f}; peak memory {memory:.1f} GiB", flush=True
    )
    if batch in TARGETS:
        print(verdict(f"batch {batch}: times the floor", step / floor, at_most=TARGETS[batch]), flush=True)


# ---------------------------------------------------------------- correctness


def outputs(device: str, dtype: str, size: str) -> dict[str, Any]:
    """What the parts of a PPO step say about fixed samples, on the CPU in float32; equal on every device up to rounding."""
    import torch

    from ex2.rl.rollout import Texts

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    vlm = random_open_clip("ViT-S-32-alt", device)
    count, prompt, tokens = 4, 10, 8
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = build(
            size, vlm, device, dtype, folder,
            per_device_train_batch_size=count, steps_per_generation=1, gradient_accumulation_steps=1, num_iterations=1,
            max_steps=1, max_completion_length=tokens,
        )  # fmt: skip
        random = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=random)

        learned = [p for _, p in sorted(trainer.model.named_parameters()) if p.requires_grad]
        for parameter in learned:
            parameter.data.copy_(0.05 * draw(*parameter.shape))
        ids = torch.randint(3, 4000, (count, prompt + tokens), generator=random)
        ids[1:, :6] = ids[0, 2:8]  # what all prompts begin with
        mask = torch.ones_like(ids)
        mask[0, :2] = mask[1, -3:] = 0
        batch: dict[str, Any] = {
            "prompt_ids": ids[:, :prompt],
            "prompt_mask": mask[:, :prompt],
            "completion_ids": ids[:, prompt:],
            "completion_mask": mask[:, prompt:],
            "advantages": draw(count, tokens),
            "returns": draw(count, tokens),
            "old_values": torch.zeros(count, tokens),
            "score": draw(count),
            "num_items_in_batch": mask[:, prompt:].sum(),
        }
        batch = {name: value.to(device) for name, value in batch.items()}
        model = trainer.model.eval()
        with torch.no_grad():
            policy = trainer._score(model, Texts.of(batch))
            reference = trainer._reference_logps(Texts.of(batch), count)
            greedy = model.generate(
                batch["prompt_ids"],
                attention_mask=batch["prompt_mask"],
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
        rewards = trainer.reward_funcs[0](
            prompts=[""] * count, completions=trainer.processing_class.batch_decode(ids), class_id=list(range(count))
        )
        model.train()
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(model, {**batch, "old_per_token_logps": policy.logps}).backward()
        own = batch["completion_mask"].bool()
        found = {
            "log-probs": policy.logps[own],
            "reference log-probs": reference[own],
            "values": policy.values[own],
            "cosines": torch.tensor(rewards) / 100,
            "gradient": torch.cat([parameter.grad.flatten() for parameter in learned]),
            "greedy tokens": greedy,
        }
    return {name: value.detach().float().cpu() for name, value in found.items()}


def compare(found: dict[str, Any], expected: dict[str, Any], what: str, tolerance: float) -> None:
    """Print the relative error of each output: length of the difference to length of what is expected."""
    for name, value in found.items():
        if name == "greedy tokens":
            print(f"{what}, greedy tokens that are equal: {(value == expected[name]).float().mean():.0%}")
        else:
            error = float((value - expected[name]).norm() / expected[name].norm())
            print(verdict(f"{what}, {name}: relative error", error, at_most=tolerance), flush=True)


# ---------------------------------------------------------------- command


def run_part(args: argparse.Namespace, *part: str) -> None:
    """One part in a process of its own, so that it begins with an empty device."""
    sizes = [
        f"--{name}={getattr(args, name)}" for name in ("device", "tokens", "epochs", "steps", "warm_up", "micro_batch")
    ]
    result = subprocess.run([sys.executable, __file__, *sizes, "--part", *part], check=False)
    if result.returncode:
        raise SystemExit(f"FAIL: {' '.join(part)} ended with status {result.returncode}")


def correctness(args: argparse.Namespace) -> None:
    """Compare the device with the CPU, each side in a process of its own."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        sides = {"expected": ("cpu", "float32"), "float32": (args.device, "float32"), "bf16": (args.device, "bfloat16")}
        for name, side in sides.items():
            run_part(args, "outputs", *side, f"{folder}/{name}.pt")
        expected, float32, bf16 = (torch.load(f"{folder}/{name}.pt") for name in sides)
    compare(float32, expected, f"{args.device} float32", tolerance=1e-3)
    compare(bf16, expected, f"{args.device} bfloat16", tolerance=0.05)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256], help="completions a step; default: 32 256")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens; default: 32")
    parser.add_argument("--epochs", type=int, default=4, help="default: 4")
    parser.add_argument("--steps", type=int, default=5, help="steps that count; default: 5")
    parser.add_argument("--warm_up", type=int, default=2, help="steps before them; default: 2")
    parser.add_argument(
        "--micro_batch", type=int, default=32, help="completions a forward and backward pass; default: 32"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny policy on the CPU: does the script work?")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.tiny:
        args.device = "cpu"
        args.tokens, args.epochs, args.steps, args.warm_up = 4, 1, 1, 1
        speed(args, batch=4)
        compare(outputs("cpu", "bfloat16", "tiny"), outputs("cpu", "float32", "tiny"), "cpu bfloat16", tolerance=0.05)
    elif args.part is None:
        correctness(args)
        for batch in args.batches:
            run_part(args, "speed", str(batch))
    elif args.part[0] == "speed":
        speed(args, int(args.part[1]))
    else:
        import torch

        _, device, dtype, path = args.part
        torch.save(outputs(device, dtype, "small"), path)


if __name__ == "__main__":
    main()
