"""Where a 7B PPO step spends its time on a GPU, and what each cure would bring. Random weights.

    python -m benchmarks.gpu.speed variants [--batch 32]      # seconds a rollout with its updates: PPO in several settings, GRPO
    python -m benchmarks.gpu.speed decode [--batches 32 256]  # seconds for 32 new tokens: as TRL samples, and other ways
    python -m benchmarks.gpu.speed profile [--batch 32]       # kernels of update, scoring, sampling; busy share of the device

--tiny does the same with a tiny policy on the CPU: does the script work? What raises an error is a line ERROR and loses nothing
else; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks._common import random_open_clip
from benchmarks.gpu._shared import (
    PAD,
    Rows,
    best_seconds,
    build,
    clear,
    decoding_floor,
    device_peaks,
    peak_gib,
    random_policy,
    wait,
)
from ex2.rl.decoding import Decoder

NO_TOKEN = 2**31 - 1  # none of any vocabulary
VARIANTS: dict[str, dict[str, Any]] = {
    "PPO, EX2's settings": {},
    "PPO, rows apart (share_prefix false)": {"share_prefix": False},
    "GRPO of TRL in EX2, equal work": {"algorithm": "grpo", "num_generations": 4, "beta": 0.2},
    "PPO, gradient checkpointing (TRL's default)": {"gradient_checkpointing": True},
    "PPO, micro-batches of a quarter": {"micro_batches": 4},
    "PPO, adapter on all linear layers": {"lora_target_modules": "all-linear"},
}
"""Settings of a step that are timed; options of the command line, and those of `Speed.trainer`."""


class Speed:
    """What to measure and for how long, and what was found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.tiny = ("cpu", True) if args.tiny else (args.device, False)
        self.tokens = 4 if args.tiny else args.tokens
        self.batch = 4 if args.tiny else args.batch
        self.batches = [4] if args.tiny else args.batches
        self.compiles = args.compile and not args.tiny
        self.found = Rows(args.out)
        self._ends = time.perf_counter() + args.budget

    def late(self, name: str) -> bool:
        """Whether the time is up; then `name` is named as left out."""
        late = time.perf_counter() > self._ends
        if late:
            print(f"(no time for: {name})", flush=True)
        return late

    @contextlib.contextmanager
    def guarded(self, name: str, **row: Any) -> Iterator[None]:
        """An error is printed and noted, and what comes next runs."""
        try:
            yield
        except Exception:
            print(f"ERROR {name}\n{traceback.format_exc()}", flush=True)
            self.found.add(what=name, **row, error=traceback.format_exc()[-1500:])

    @contextlib.contextmanager
    def trainer(
        self, batch: int, *, micro_batches: int = 1, rollouts: int = 4, epochs: int = 4, **options: Any
    ) -> Iterator[tuple[Any, Any]]:
        """EX2's own trainer for `rollouts` rollouts of `batch` texts, and its options."""
        import torch

        clear(self.device)
        vlm = random_open_clip("ViT-S-32-alt" if self.tiny else "ViT-L-14", self.device)
        vlm.release_image_tower()
        with tempfile.TemporaryDirectory() as folder:
            yield build(
                random_policy(*(("tiny", "cpu", "float32") if self.tiny else ("7b", self.device, "bfloat16"))),
                vlm,
                folder,
                per_device_train_batch_size=batch // micro_batches,
                steps_per_generation=micro_batches,
                gradient_accumulation_steps=micro_batches,
                num_iterations=epochs,
                max_steps=epochs * rollouts,
                max_completion_length=self.tokens,
                **options,
            )
        torch._dynamo.reset()


# ---------------------------------------------------------------- whole steps


def rollout_seconds(trainer: Any, updates: int, device: str) -> list[float]:
    """Train, and return the seconds of each rollout with its updates but the first one's."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class End(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % updates == 0:
                wait(device)
                ends.append(time.perf_counter())

    trainer.add_callback(End())
    trainer.train()
    return [end - start for start, end in pairwise(ends)]


def variant(speed: Speed, name: str, options: dict[str, Any]) -> None:
    """Time one setting."""
    with speed.trainer(speed.batch, rollouts=3 if speed.tiny else 4, **options) as (trainer, parsed):
        times = rollout_seconds(trainer, parsed.updates_per_rollout, speed.device)
    step, peak = statistics.median_high(times), peak_gib(speed.device)
    shown = f"{step:8.3f} s a rollout with its updates, peak {peak:5.1f} GiB"
    print(f"{name:<46}{shown}  (all: {[round(seconds, 3) for seconds in times]})", flush=True)
    speed.found.add(what=name, batch=speed.batch, seconds=step, all=times, peak_gib=peak)


def variants(speed: Speed) -> None:
    """Seconds of a rollout with its updates, in each setting."""
    for name, options in VARIANTS.items():
        if not speed.late(name):
            with speed.guarded(name):
                variant(speed, name, options)


# ---------------------------------------------------------------- sampling


@contextlib.contextmanager
def merged(model: Any) -> Iterator[None]:
    """The adapter within the weights; what was there comes back bit for bit."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}
    model.merge_adapter()
    try:
        yield
    finally:
        for module in model.modules():
            if getattr(module, "merged_adapters", None):
                module.merged_adapters.clear()
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data.copy_(kept[name])


def settings_for(tokens: int, **settings: Any) -> Any:
    """Settings of a generation of exactly `tokens` new tokens: nothing ends a text."""
    from transformers import GenerationConfig

    return GenerationConfig(max_new_tokens=tokens, pad_token_id=PAD, eos_token_id=NO_TOKEN, **settings)


def generation(model: Any, prompt: Any, mask: Any, tokens: int, **settings: Any) -> Callable[[], Any]:
    """transformers' `generate` for exactly `tokens` new tokens."""
    import torch

    config = settings_for(tokens, **settings)

    def work() -> Any:
        with torch.no_grad():
            return model.generate(input_ids=prompt, attention_mask=mask, generation_config=config)

    return work


def within_autocast(work: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The same work within bfloat16 autocast."""
    import torch

    def inside() -> Any:
        with torch.autocast(device, torch.bfloat16):
            return work()

    return inside


Way = tuple[str, Callable[[], Any], bool]
"""A way of sampling: its name, its work, and whether the adapter is merged meanwhile."""


def ways_of(speed: Speed, model: Any, prompt: Any, mask: Any) -> list[Way]:
    """All ways of sampling that are timed."""

    def generate(**settings: Any) -> Callable[[], Any]:
        distribution = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        return generation(model, prompt, mask, speed.tokens, **distribution, **settings)

    def decode(config: Any) -> Callable[[], Any]:
        sample = Decoder(model)
        return lambda: sample(input_ids=prompt, attention_mask=mask, generation_config=config)

    plain = generate(disable_compile=True)
    fixed = decode(settings_for(speed.tokens, do_sample=True, top_k=0, top_p=1.0))
    ways: list[Way] = [
        ("generate, as TRL calls it", plain, False),
        ("generate within autocast", within_autocast(plain, speed.device), False),
        ("generate, static cache", generate(disable_compile=True, cache_implementation="static"), False),
        ("EX2's decoder within autocast", within_autocast(fixed, speed.device), False),
        ("EX2's decoder, adapter merged", decode(settings_for(speed.tokens, do_sample=True, top_k=0, top_p=1.0)), True),
    ]
    if speed.compiles and len(prompt) == speed.batches[0]:
        ways.append(("generate, static cache, compiled", generate(cache_implementation="static"), False))
    return ways


def time_way(speed: Speed, name: str, work: Callable[[], Any], batch: int, floor: float) -> None:
    """Time one way of sampling; `floor` is the least that it takes on this device."""
    start = time.perf_counter()
    work()
    wait(speed.device)
    first = time.perf_counter() - start
    took = best_seconds(work, speed.device, rounds=1 if speed.tiny else 3)
    each = f"{1000 * took / speed.tokens:5.1f} ms a token, {took / floor:.1f} times the floor; first call {first:.1f} s"
    print(f"batch {batch:<4} {name:<44}{took:8.3f} s for {speed.tokens} tokens ({each})", flush=True)
    speed.found.add(what=name, batch=batch, seconds=took, first=first, floor=floor)


def compare_greedy(speed: Speed, model: Any, prompt: Any, mask: Any) -> None:
    """Does EX2's decoder pick the tokens that `generate` picks? In bfloat16 near ties may go either way."""
    greedy = generation(model, prompt, mask, speed.tokens, do_sample=False, disable_compile=True)
    expected = greedy()[:, prompt.shape[1] :]
    decoder = Decoder(model)
    texts = decoder(
        input_ids=prompt, attention_mask=mask, generation_config=settings_for(speed.tokens, do_sample=False)
    )
    if decoder.problem is not None:
        raise RuntimeError(f"the decoder gave up: {decoder.problem}")
    same = (texts[:, prompt.shape[1] :] == expected).float()
    first, all_tokens = float(same[:, 0].mean()), float(same.mean())
    shares = f"first {first:.0%}, all {all_tokens:.0%}"
    print(f"batch {len(prompt):<4} greedy tokens of EX2's decoder equal to generate's: {shares}", flush=True)
    speed.found.add(what="greedy tokens equal", batch=len(prompt), first=first, all=all_tokens)


def decode(speed: Speed) -> None:
    """Seconds of sampling in several ways, at each batch size."""
    with speed.trainer(speed.batches[0]) as (trainer, _):
        model, tokenizer = trainer.model.eval(), trainer.processing_class
        dtype = next(model.parameters()).dtype
        weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
        peaks = device_peaks(speed.device, dtype, speed.tiny)
        prompts = [row["prompt"] for row in trainer.train_dataset]
        for batch in speed.batches:
            texts = [prompts[i % len(prompts)] for i in range(batch)]
            rows = tokenizer(texts, padding=True, return_tensors="pt").to(speed.device)
            prompt, mask = rows["input_ids"], rows["attention_mask"]
            floor = decoding_floor(weights, dtype.itemsize, batch, prompt.shape[1], speed.tokens, peaks)
            for name, work, merges in ways_of(speed, model, prompt, mask):
                if not speed.late(name):
                    with speed.guarded(name, batch=batch), merged(model) if merges else contextlib.nullcontext():
                        time_way(speed, name, work, batch, floor)
            with speed.guarded("greedy tokens", batch=batch):
                compare_greedy(speed, model, prompt, mask)


# ---------------------------------------------------------------- kernels


def parts_of(trainer: Any, batch: int) -> dict[str, Callable[[], object]]:
    """An update's forward and backward pass, scoring, and sampling, on one rollout."""
    import torch
    from accelerate.utils import set_seed

    from ex2.rl.rollout import Texts

    model = trainer.model
    rows = [dict(row) for row in trainer.train_dataset.select(range(batch))]
    set_seed(0)
    model.train()
    inputs = trainer._generate_and_score_completions(rows)
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    trainer.current_gradient_accumulation_steps = 1

    def update() -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer._compute_loss(model, inputs)
        loss.backward()
        model.zero_grad()

    def scores() -> None:
        with torch.no_grad():
            trainer._score(model, Texts.of(inputs))

    def sample() -> None:
        trainer._generate([row["prompt"] for row in rows])

    return {"forward and backward": update, "scoring": scores, "sampling": sample}


def profile_part(speed: Speed, name: str, work: Callable[[], object]) -> None:
    """Print how long a part takes, how busy the device is meanwhile, and its longest kernels."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = speed.device.startswith("cuda")
    took = best_seconds(work, speed.device, rounds=2)
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as recorded:
        work()
        wait(speed.device)
    events = recorded.key_averages()
    own = [event for event in events if str(event.device_type).endswith("CUDA")]
    time_of = "self_device_time_total" if cuda else "self_cpu_time_total"
    busy = sum(getattr(event, time_of, 0) for event in (own if cuda else events)) / 1e6
    kernels = sum(event.count for event in own)
    print(f"{name}: {took:.4f} s, device busy {busy:.4f} s ({busy / took:.0%}), {kernels} kernels", flush=True)
    speed.found.add(what=name, seconds=took, busy=busy, kernels=kernels)
    print(events.table(sort_by=time_of, row_limit=14, max_name_column_width=70), flush=True)


def profile(speed: Speed) -> None:
    """Kernels of the parts of a step."""
    with speed.trainer(speed.batch) as (trainer, _):
        for name, work in parts_of(trainer, speed.batch).items():
            with speed.guarded(name):
                profile_part(speed, name, work)


WHAT: dict[str, Callable[[Speed], None]] = {"variants": variants, "decode": decode, "profile": profile}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and measure what it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(WHAT))
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny policy on the CPU: does the script work?")
    parser.add_argument("--batch", type=int, default=32, help="texts of variants and profile; default: 32")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256], help="texts of decode; default: 32 256")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens; default: 32")
    parser.add_argument(
        "--compile", action="store_true", help="decode: compiled decoding of transformers too (a minute)"
    )
    parser.add_argument(
        "--budget", type=float, default=90, help="seconds after which nothing new is begun; default: 90"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for all numbers")
    args = parser.parse_args(argv)
    speed = Speed(args)
    with speed.guarded(args.what):
        WHAT[args.what](speed)
    raise SystemExit(any("error" in row for row in speed.found.rows))


if __name__ == "__main__":
    main()
