"""A long run of PPO on a tiny random policy and the embedded data, whole and with kills: memory, files, exact resume.

    python benchmarks/soak.py [--steps 2000 --kills 10 --seed 0] [--out runs/soak]

Two runs of train/ppo_ex2.py with the same options, one core each in its turn: `whole` runs to its end; `killed` is killed with
SIGKILL at random moments, every other time while a checkpoint is being written, and resumed each time. A step is a rollout of 4
texts and two updates. Printed, each as PASS or FAIL with its numbers:

    memory    of `whole` after each step: the most after step 200 against what it was at step 200
    files     of `whole`: size and names at the first checkpoints against the end, without logs; number of checkpoints
    resume    final weights of `killed`, its sampled texts and its files against `whole`'s
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import ROOT

TRAIN = ROOT / "train" / "ppo_ex2.py"
UPDATES = 2  # of a step
KEEP = 2  # checkpoints
LOGS = ("metrics.jsonl", "samples.jsonl", "trainer_state.json")  # the last holds the Trainer's own copy of the metrics


def tiny_policy(folder: Path) -> Path:
    """A random two-layer Llama with the embedded policy's tokenizer, saved in `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ex2.policy.llm import load_tokenizer, resolve_model

    source = resolve_model("smollm2")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.from_pretrained(source, num_hidden_layers=2, head_dim=8, initializer_range=0.2, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


class Run:
    """One run folder, its command, and what was seen of it."""

    def __init__(self, folder: Path, policy: Path, steps: int, save_every: int, extra: Sequence[str]) -> None:
        self.folder, self.steps = folder, steps
        self.memory: list[tuple[int, float]] = []  # (step, GiB)
        options: dict[str, Any] = {
            "config": ROOT / "configs" / "quickstart.yaml",
            "model_name_or_path": policy,
            "reward_normalization": "scale",
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 1,
            "gradient_accumulation_steps": 1,
            "num_iterations": UPDATES,
            "max_steps": steps * UPDATES,
            "max_completion_length": 6,
            "lora_r": 4,
            "kl_stop": 1e6,
            "before_after": False,
            "save_steps": save_every * UPDATES,
            "save_total_limit": KEEP,
            "output_dir": folder,
        }
        line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.command = [sys.executable, str(TRAIN), *line, *extra]

    @property
    def step(self) -> int:
        """Steps that are finished, by the last line of the metrics."""
        try:
            with (self.folder / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
                return int(json.loads(file.read().splitlines()[-1])["step"]) // UPDATES
        except (OSError, IndexError, ValueError, KeyError):  # not there yet, empty, or in the middle of a line
            return 0

    @property
    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*checkpoint-*"))

    @property
    def begun(self) -> set[str]:
        """Checkpoints, and those that are being written."""
        return {*self.checkpoints, *(path.name for path in self.folder.glob(".unfinished/checkpoint-*"))}

    def files(self) -> dict[str, int]:
        """Size of each file but the logs; checkpoints by their age, not by their number."""
        age = {name: f"checkpoint {i}" for i, name in enumerate(sorted(self.checkpoints, key=lambda n: (len(n), n)))}
        sizes = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name not in LOGS:
                first, *rest = path.relative_to(self.folder).parts
                sizes["/".join([age.get(first, first), *rest])] = path.stat().st_size
        return sizes

    def start(self, *, resume: bool, until: Callable[[], bool]) -> bool:
        """Run until the end, or kill the process as soon as `until` holds. Returns whether it was killed."""
        how = ["--resume_from_checkpoint", "true"] if resume else ["--overwrite", "true"]
        log = self.folder.with_name(self.folder.name + ".log")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen([*self.command, *how], stdout=file, stderr=file, env=environment)
            try:
                while process.poll() is None:
                    step = self.step
                    if not self.memory or self.memory[-1][0] != step:
                        self.memory.append((step, _resident(process.pid)))
                    if until():
                        process.kill()
                        process.wait()
                        return True
                    time.sleep(0.005)
            finally:
                process.kill()
        if process.returncode:
            raise SystemExit(f"FAIL: {self.folder.name} ended with status {process.returncode}: see {log}")
        return False


def _resident(pid: int) -> float:
    """Memory of a process, GiB; 0 where it is just ending."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def run_whole(run: Run, save_every: int) -> dict[str, int]:
    """Run without a kill. Returns the files as they were when `KEEP` checkpoints had first been written."""
    seen: dict[str, int] = {}

    def look() -> bool:
        # A few steps after the save, so that it is over.
        if not seen and run.step > KEEP * save_every and run.step % save_every:
            seen.update(run.files())
        return False

    run.start(resume=False, until=look)
    return seen


def kill_after(run: Run, step: int, delay: float, while_saving: bool) -> Callable[[], bool]:
    """A condition that holds `delay` seconds after a step, or as soon as the next checkpoint, or part of it, appears."""
    before = run.begun
    since: float | None = None

    def due() -> bool:
        nonlocal before, since
        if run.step < step:
            before = run.begun
            return False
        since = since or time.monotonic()
        return not run.begun <= before if while_saving else time.monotonic() - since > delay

    return due


def run_with_kills(run: Run, kills: int, save_every: int, seed: int) -> list[str]:
    """Run with kills, every other one while saving. Returns when they came."""
    generator = random.Random(seed)
    steps = sorted(generator.sample(range(save_every + 1, run.steps - save_every), kills))
    moments: list[str] = []
    for number, step in enumerate(steps):
        saving = bool(number % 2)
        due = kill_after(run, step, generator.uniform(0, 0.5), saving)
        if not run.start(resume=number > 0, until=due):
            return moments
        moments.append(f"{run.step}{' (saving)' if saving else ''}")
    run.start(resume=kills > 0, until=lambda: False)
    return moments


def check_memory(memory: Sequence[tuple[int, float]], after: int) -> tuple[bool, str]:
    """Whether memory stays within 5 % of its level at step `after` (median over a tenth of the steps that follow)."""
    seen = [(step, held) for step, held in memory if step >= after and held]
    until = after + max(1, (max((step for step, _ in seen), default=after) - after) // 10)
    level = [held for step, held in seen if step <= until]
    later = [held for _, held in seen]
    if not level:
        return False, f"no memory was seen after step {after}"
    start, most = statistics.median(level), max(later)
    return (
        most <= 1.05 * start,
        f"{start:.3f} GiB at step {after}, at most {most:.3f} GiB later, ratio {most / start:.3f}",
    )


def check_files(early: dict[str, int], late: dict[str, int], checkpoints: Sequence[str]) -> tuple[bool, str]:
    """Whether no file was added or grew after the first checkpoints, but for what a run writes at its end."""
    kept = {name: size for name, size in late.items() if name in early}
    grown = [name for name, size in kept.items() if size > 1.01 * early[name] + 1024]
    lost = sorted(set(early) - set(late))
    ending = sorted({name.split("/")[0] for name in set(late) - set(early)} - {"adapter", "README.md"})
    text = f"{sum(early.values())} bytes without logs, {sum(kept.values())} at the end; {len(checkpoints)} checkpoints"
    text += "".join(
        f"; {what}: {', '.join(names)}" for what, names in (("grown", grown), ("lost", lost), ("new", ending)) if names
    )
    return bool(early) and not (grown or lost or ending) and len(checkpoints) <= KEEP, text


def check_resume(whole: Path, killed: Path) -> tuple[bool, str]:
    """Whether final weights, value head and sampled texts are the same, bit for bit."""
    names = ["adapter/adapter_model.safetensors", "samples.jsonl"]
    names += [str(path.relative_to(whole)) for path in sorted(whole.glob("checkpoint-*/value_head.safetensors"))]
    differing = [
        name
        for name in names
        if not (killed / name).is_file() or (whole / name).read_bytes() != (killed / name).read_bytes()
    ]
    return not differing, "differing: " + ", ".join(differing) if differing else f"{', '.join(names)} are equal"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="rollouts, each with its updates; default: 2000")
    parser.add_argument("--kills", type=int, default=10, help="default: 10")
    parser.add_argument("--save_every", type=int, default=20, help="steps from checkpoint to checkpoint; default: 20")
    parser.add_argument("--after", type=int, default=200, help="step from which memory must stay flat; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills; default: 0")
    parser.add_argument("--policy", type=Path, help="folder of a tiny model; default: one is made")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/soak"), help="default: runs/soak; earlier runs are replaced"
    )
    parser.add_argument("--quick", action="store_true", help="8 steps, 1 kill: does the script work?")
    args, extra = parser.parse_known_args(argv)  # what is left over goes to training
    if args.quick:
        args.steps, args.kills, args.save_every, args.after = 8, 1, 2, 3
    args.out.mkdir(parents=True, exist_ok=True)
    policy = args.policy or tiny_policy(args.out / "policy")
    whole, killed = (Run(args.out / name, policy, args.steps, args.save_every, extra) for name in ("whole", "killed"))
    start = time.monotonic()
    early = run_whole(whole, args.save_every)
    print(f"whole: {args.steps} steps in {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()
    moments = run_with_kills(killed, args.kills, args.save_every, args.seed)
    print(f"killed: {time.monotonic() - start:.0f} s, killed after steps {', '.join(moments) or '-'}", flush=True)
    checks = {
        "memory": check_memory(whole.memory, args.after),
        "files": check_files(early, whole.files(), whole.checkpoints),
        "kills": (len(moments) == args.kills, f"{len(moments)} of {args.kills}"),
        "resume": check_resume(whole.folder, killed.folder),
        "files after kills": (set(killed.files()) == set(whole.files()), f"{len(killed.files())} files"),
    }
    for name, (passed, text) in checks.items():
        print(f"{name}: {text} {'PASS' if passed else 'FAIL'}")
    if not all(passed for passed, _ in checks.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
