"""An update of PPO, EX2 against the last PPOTrainer that TRL shipped (1.12.0): seconds and peak memory, side by side.

    python benchmarks/ppo_step.py [--samples 32 --tokens 32 --epochs 4 --updates 3]
    python benchmarks/ppo_step.py --profile     # where the time of EX2's step goes, with the VLM's reward and the monitors

An update is one rollout and all epochs over it. Both sides train the same policy with the same LoRA adapter (r 16 on all linear
layers) on the same prompts, tokens, micro-batches, epochs and reward (is the last token's id even?), each in a process of its
own, in float32; EX2 besides in what it uses by default (bfloat16, where the processor multiplies in it). TRL 1.12.0 is
installed into a folder of its own, beside the other packages as they are. Its value model is a second copy of the policy that is
trained in full, as in its example script. The first update does not count; seconds are the median of the others, by the clock and
of the processor: beside other work the latter are what compares.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import PASSES, ROOT, Profile, peak_memory, verdict

from ex2.base.bf16 import cpu_has_bf16
from ex2.base.cache import cache_folder
from ex2.launch import use_cores_well

TRL = "1.12.0"
SIDES = {"TRL, float32": ("trl", False), "EX2, float32": ("ex2", False), "EX2, default": ("ex2", True)}
FASTER = {False: 2.2, True: 3.5}
"""How many times faster than TRL in float32 EX2 is to be, without and with bfloat16."""


def install_trl() -> Path:
    """Folder with TRL 1.12.0 and nothing else."""
    folder = cache_folder() / "benchmarks" / f"trl-{TRL}"
    if not (folder / f"trl-{TRL}.dist-info" / "RECORD").is_file():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(folder), f"trl=={TRL}"], check=True)
    return folder


def prompts(tokenizer: Any, count: int) -> list[str]:
    """Prompts as text, with the chat template where the tokenizer has one."""
    from ex2.data import load_images

    names = load_images("pictograms").class_names
    questions = [f"Describe a {names[i % len(names)]} in one sentence." for i in range(count)]
    if tokenizer.chat_template is None:
        return [f"{question}\n\n" for question in questions]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]


def load(args: argparse.Namespace, bf16: bool = False) -> tuple[Any, Any, Any]:
    """Policy, tokenizer and LoRA configuration, the same for both sides; `bf16` holds frozen layers as EX2 does for it."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    from ex2.policy.llm import linear_in_bfloat16, load_tokenizer, resolve_model

    path = resolve_model(args.policy)
    policy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if bf16:
        linear_in_bfloat16(policy)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return policy, load_tokenizer(path), lora


def shared_options(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Options that have the same name on both sides."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": args.micro_batch,
        "gradient_accumulation_steps": args.samples // args.micro_batch,
        "learning_rate": 1e-5,
        "temperature": 1.0,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "seed": 0,
    }


Seconds = tuple[float, float]
"""By the clock, and of the processor in all threads."""


def stopwatch(each: int) -> tuple[Any, list[Seconds]]:
    """A callback, and the list that it fills: seconds of every `each` optimizer steps, by the clock and of the processor."""
    from transformers import TrainerCallback

    seconds: list[Seconds] = []

    class Stopwatch(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % each == 0:
                now = time.perf_counter(), time.process_time()
                seconds.append((now[0] - self.start[0], now[1] - self.start[1]))
                self.start = now

    return Stopwatch(), seconds


def train_trl(args: argparse.Namespace, bf16: bool, folder: str) -> list[Seconds]:
    """Seconds of each update of TRL's PPOTrainer."""
    from types import SimpleNamespace

    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from ex2.policy.llm import resolve_model

    assert trl.__version__ == TRL, trl.__version__

    class EvenToken(torch.nn.Module):
        """The reward in the form of a model: TRL scores every position and takes the last one's."""

        base_model_prefix = "backbone"

        def backbone(self, input_ids: Any, **kwargs: Any) -> Any:
            return SimpleNamespace(hidden_states=[input_ids])

        def score(self, input_ids: Any) -> Any:
            return (input_ids % 2 == 0).float().unsqueeze(-1)

    policy, tokenizer, lora = load(args)
    value = AutoModelForSequenceClassification.from_pretrained(
        resolve_model(args.policy), num_labels=1, dtype=torch.float32
    )
    rows = [{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in prompts(tokenizer, args.samples)]
    config = PPOConfig(
        **shared_options(args, folder),
        bf16=bf16,
        num_ppo_epochs=args.epochs,
        response_length=args.tokens,
        total_episodes=args.samples * args.updates,
        local_rollout_forward_batch_size=args.samples,
        num_sample_generations=0,
    )
    watch, seconds = stopwatch(each=1)
    PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=EvenToken(),
        value_model=value,
        train_dataset=Dataset.from_list(rows),
        peft_config=lora,
        callbacks=[watch],
    ).train()
    return seconds


def train_ex2(args: argparse.Namespace, bf16: bool, folder: str) -> list[Seconds]:
    """Seconds of each update of EX2's PPOTrainer."""
    from datasets import Dataset

    from ex2.rl.ppo_config import PPOConfig
    from ex2.rl.ppo_trainer import PPOTrainer

    def even_token(prompts: list[Any], completions: list[Any], completion_ids: Any, **columns: Any) -> list[float]:
        return [float(ids[-1] % 2 == 0) for ids in completion_ids]

    bf16 = bf16 and cpu_has_bf16()
    policy, tokenizer, lora = load(args, bf16)
    config = PPOConfig(
        **shared_options(args, folder),
        bf16=bf16,
        num_iterations=args.epochs,
        max_completion_length=args.tokens,
        max_steps=args.epochs * args.updates,
        steps_per_generation=args.samples // args.micro_batch,
        generation_kwargs={"min_new_tokens": args.tokens},  # TRL's side has no end token either
    )
    watch, seconds = stopwatch(each=args.epochs)
    PPOTrainer(
        model=policy,
        reward_funcs=even_token,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts(tokenizer, args.samples)]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[watch],
    ).train()
    return seconds


def measure(args: argparse.Namespace) -> None:
    """One side, in this process: prints seconds an update, of the clock and of the processor, and peak memory as JSON."""
    use_cores_well()
    kind, bf16 = SIDES[args.side]
    with tempfile.TemporaryDirectory() as folder:
        seconds = (train_trl if kind == "trl" else train_ex2)(args, bf16, folder)
    clock, processor = (statistics.median(values) for values in zip(*(seconds[1:] or seconds), strict=True))
    print(json.dumps({"seconds": clock, "processor": processor, "memory": peak_memory()}))


def run_side(args: argparse.Namespace, side: str) -> dict[str, float]:
    """The numbers of one side, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRL_EXPERIMENTAL_SILENCE": "1"}
    if SIDES[side][0] == "trl":
        environment["PYTHONPATH"] = f"{install_trl()}{os.pathsep}{ROOT}"
    sizes = [
        f"--{name}={getattr(args, name)}"
        for name in ("policy", "samples", "tokens", "epochs", "updates", "micro_batch")
    ]
    result = subprocess.run(
        [sys.executable, __file__, "--side", side, *sizes], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"error: {side} ended with status {result.returncode}:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def profile(args: argparse.Namespace) -> None:
    """Where the time of EX2's own training goes, reward of the embedded VLM, monitors and sample log included."""
    use_cores_well()
    from ex2.launch import main as train
    from ex2.run import training

    clock, built = Profile(), training.build_trainer

    def build_trainer(*parts: Any) -> Any:
        trainer = built(*parts)
        clock.watch(trainer, updates_per_rollout=args.epochs, skip=min(1, args.updates - 1))
        return trainer

    training.build_trainer = build_trainer
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "config": ROOT / "configs" / "quickstart.yaml",
            "model_name_or_path": args.policy,
            "num_generations": min(4, args.samples // 2),
            "max_completion_length": args.tokens,
            "per_device_train_batch_size": args.micro_batch,
            "steps_per_generation": args.samples // args.micro_batch,
            "gradient_accumulation_steps": args.samples // args.micro_batch,
            "num_iterations": args.epochs,
            "max_steps": args.epochs * args.updates,
            "reward_normalization": "scale",
            "before_after": False,
            "save_strategy": "no",
            "output_dir": f"{folder}/run",
        }
        train("ppo", [part for name, value in options.items() for part in (f"--{name}", str(value))])
    print(clock.table())
    print(verdict("share of the rest", clock.share("rest"), at_most=0.05))
    other = 1 - clock.share(*PASSES)
    print(verdict("share of all that is neither generation nor a pass through a model", other, at_most=0.05))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="smollm2", help="folder, hub id or smollm2; default: smollm2")
    parser.add_argument("--samples", type=int, default=32, help="completions an update; default: 32")
    parser.add_argument("--tokens", type=int, default=32, help="tokens a completion; default: 32")
    parser.add_argument("--epochs", type=int, default=4, help="PPO epochs; default: 4")
    parser.add_argument("--updates", type=int, default=3, help="updates a side, the first not counted; default: 3")
    parser.add_argument(
        "--micro_batch", type=int, default=8, help="completions a forward and backward pass; default: 8"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="default: all")
    parser.add_argument("--profile", action="store_true", help="where the time of EX2's step goes")
    parser.add_argument("--quick", action="store_true", help="4 samples, 4 tokens, 1 epoch, 1 update")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.samples = args.tokens = args.micro_batch = 4
        args.epochs = args.updates = 1
    if args.samples % args.micro_batch:
        parser.error(f"--micro_batch {args.micro_batch} does not divide --samples {args.samples}")
    if args.side:
        measure(args)
        return
    if args.profile:
        profile(args)
        return
    results = {}
    for side in args.sides:
        own = results[side] = run_side(args, side)
        times = f"{own['seconds']:.1f} s an update, {own['processor']:.1f} s of the processor"
        print(f"{side}: {times}, peak {own['memory']:.2f} GiB", flush=True)
    base = results.pop("TRL, float32", None)
    if base is None:
        return
    for side, own in results.items():
        faster, what = FASTER[SIDES[side][1] and cpu_has_bf16()], f"{side}: times faster than TRL {TRL}"
        print(verdict(what, base["seconds"] / own["seconds"], at_least=faster))
        print(verdict(f"{what}, of the processor", base["processor"] / own["processor"], at_least=faster))
        print(verdict(f"{side}: share of TRL's peak memory", own["memory"] / base["memory"], at_most=0.42))


if __name__ == "__main__":
    main()
