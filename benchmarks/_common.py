"""What several benchmarks share: timing side by side, where time goes, memory, a line with a ratio and its target, a run."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def interleaved(sides: Mapping[str, Callable[[int], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each side in each of `repeats` rounds, after one round that does not count.

    Each round runs every side once, with the round's number, and the order turns around from round to round: what else
    the machine does hits all sides alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            sides[name](number)
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def verdict(what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> str:
    """One line: what was measured, its value, the target, and whether it was met."""
    met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    target = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    return f"{what}: {value:.3g} (target: {target}) {'PASS' if met else 'FAIL'}"


def peak_memory() -> float:
    """Most memory that this process has held so far, GiB (VmHWM: unlike getrusage's, not the parent's)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def train_run(folder: Path, algorithm: str, config: str, seed: int, extra: Sequence[str]) -> None:
    """Train configs/`config` on one core; what `folder` holds already is kept, and the log goes to FOLDER.log beside it."""
    if (folder / "README.md").is_file():  # the model card is the last thing that a run writes
        return
    command = [sys.executable, str(ROOT / "train" / f"{algorithm}_ex2.py"), "--config", str(ROOT / "configs" / config)]
    command += ["--seed", str(seed), "--output_dir", str(folder), *extra]
    if (folder / "config.yaml").is_file():
        command += ["--resume_from_checkpoint", "true"] if any(folder.glob("checkpoint-*")) else ["--overwrite", "true"]
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a", encoding="utf-8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        result = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False)
    if result.returncode:
        raise SystemExit(f"error: {folder.name} ended with status {result.returncode}: see {log}.")
    print(f"{folder.name} is finished", flush=True)


PASSES = ("generation", "old log-probs and values", "reference log-probs", "text encoder", "forward and backward")
"""The parts of a PPO step that are generation or passes through a model."""


class Profile:
    """Where the time of a PPO step goes, by part. Parts nest: time within an inner part does not count for the outer one.

    Attributes:
        seconds: Of each part, over the rollouts that count; what no part claims is `rest`.
        steps: Rollouts that count, each with all updates on it.
    """

    def __init__(self, synchronize: Callable[[], object] = lambda: None) -> None:
        self.synchronize = synchronize
        self.seconds: dict[str, float] = {}
        self.steps = 0
        self._parts = ["rest"]
        self._reset()

    def watch(self, trainer: Any, updates_per_rollout: int, skip: int) -> None:
        """Measure a trainer of EX2's PPO from the end of rollout `skip` to the end of the last one."""
        from transformers import TrainerCallback

        gradients, reference = "forward and backward", "reference log-probs"
        self._time(trainer, "training_step", gradients)
        self._time(trainer, "_prepare_inputs", "rest")  # called by training_step; the rollout is within it
        self._time(trainer, "_generate", "generation")
        self._time(trainer, "_reference_logps", reference)
        self._time(trainer, "_score", "old log-probs and values", unless=(gradients, reference))
        self._time(trainer, "_calculate_rewards", "rewards, monitors, sample log")
        self._time(trainer.scorer.vlm, "encode_texts", "text encoder")
        self._time(trainer.accelerator, "clip_grad_norm_", "optimizer")
        create_optimizer, profile = trainer.create_optimizer, self

        def created(*args: Any, **kwargs: Any) -> Any:
            optimizer = create_optimizer(*args, **kwargs)
            optimizer.register_step_pre_hook(lambda *_: self._enter("optimizer"))
            optimizer.register_step_post_hook(lambda *_: self._leave())
            return optimizer

        class Rollouts(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                profile._reset()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                rollout, inside = divmod(state.global_step, updates_per_rollout)
                if not inside and rollout <= skip:
                    profile._reset()
                elif not inside:
                    profile._charge()
                    profile.steps, profile.seconds = rollout - skip, dict(profile._running)

        trainer.create_optimizer = created
        trainer.add_callback(Rollouts())

    def share(self, *parts: str) -> float:
        """Share of the time that `parts` take together."""
        return sum(self.seconds.get(part, 0.0) for part in parts) / sum(self.seconds.values())

    def table(self) -> str:
        """Seconds a step and share of each part, largest first."""
        lines = [f"{'part':<32}{'s a step':>10}{'share':>8}"]
        for part, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            lines.append(f"{part:<32}{seconds / self.steps:>10.3f}{self.share(part):>8.1%}")
        return "\n".join(lines)

    def _reset(self) -> None:
        self._running: dict[str, float] = defaultdict(float)
        self.synchronize()
        self._since = time.perf_counter()

    def _charge(self) -> None:
        self.synchronize()
        now = time.perf_counter()
        self._running[self._parts[-1]] += now - self._since
        self._since = now

    def _enter(self, part: str) -> None:
        self._charge()
        self._parts.append(part)

    def _leave(self) -> None:
        self._charge()
        self._parts.pop()

    def _time(self, owner: Any, name: str, part: str, unless: Sequence[str] = ()) -> None:
        """Count calls of `owner.name` as `part`, except those from within a part of `unless`."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._enter(self._parts[-1] if self._parts[-1] in unless else part)
            try:
                return original(*args, **kwargs)
            finally:
                self._leave()

        setattr(owner, name, timed)


def sentences() -> list[str]:
    """Different sentences about classes: those that the local judge was built from."""
    lines = (ROOT / "ex2" / "assets" / "judge" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["text"] for line in lines))


def random_bank(vlm: Any, classes: int, images: int) -> Any:
    """A bank of `images` random unit vectors a class on each side of the split."""
    import torch

    from ex2.scoring.bank import ImageBank

    count = 2 * classes * images
    embeddings = torch.randn(count, vlm.dim, generator=torch.Generator().manual_seed(0))
    return ImageBank(
        class_names=tuple(f"class {i}" for i in range(classes)),
        embeddings=torch.nn.functional.normalize(embeddings, dim=1),
        labels=torch.arange(classes).repeat_interleave(2 * images),
        split_ids=torch.tensor([0, 1]).repeat_interleave(images).repeat(classes),
        image_ids=tuple(map(str, range(count))),
        vlm_name=vlm.name,
        vlm_fingerprint="",
        dataset="random",
    )


def random_open_clip(architecture: str, device: Any = "cpu", dtype: Any = None) -> Any:
    """The VLM of open_clip that `architecture` names, with random weights."""
    import open_clip
    import torch

    from ex2.vlm.openclip import OpenClipVLM, quiet_root_logger

    with quiet_root_logger():
        model, _, preprocess = open_clip.create_model_and_transforms(architecture)
        tokenizer, config = open_clip.get_tokenizer(architecture), open_clip.get_model_config(architecture)
    place = {"device": torch.device(device), "dtype": dtype or torch.float32}
    return OpenClipVLM(architecture, model, preprocess, tokenizer, config, **place)
