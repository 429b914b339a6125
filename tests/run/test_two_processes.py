"""Learning does not depend on the number of processes: two with half the batch each follow one with all of it.

Each process draws from a generator of its own, so their texts differ from those of one process. Here both draw from one
stream of numbers for the whole batch, of which each process takes its rows; all the rest is the product's. FSDP2 shards on
the CPU as well, which accelerate does not offer: it is made to take two processes on a CPU for two on GPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import Tensor

from ex2.policy.asks import Ask
from ex2.run import training
from ex2.run.folder import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
HALVES = 2
END = 1  # token id
Arguments = Callable[..., list[str]]
Job = dict[str, Any]

COMMON: dict[str, Any] = {"before_after": False, "lora_dropout": 0.0, "save_strategy": "no", "max_completion_length": 8}
# Texts of one process in a micro-batch when there are two; one process alone takes twice as many. Plain gradient descent
# where it can be: Adam blows rounding errors up where a gradient is nearly zero.
CASES: dict[str, dict[str, Any]] = {
    # Four updates on each rollout, an adaptive KL coefficient, gradients that are clipped.
    "ppo": {
        "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2, "num_generations": 1, "max_steps": 12,
        "kl_target": 0.5, "kl_horizon": 50, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.3,
    },
    # Groups of four of which one lies half in each process, accumulated gradients, a learning rate of the value head.
    "ppo_groups": {
        "per_device_train_batch_size": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 2, "num_iterations": 2,
        "num_generations": 4, "group_baseline": True, "max_steps": 6, "optim": "sgd", "learning_rate": 0.2,
        "value_learning_rate": 0.1,
    },
    "ppo_adam": {
        "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2, "num_generations": 1, "max_steps": 8,
        "whiten_advantages": False, "learning_rate": 1e-3,
    },
    "grpo": {
        "per_device_train_batch_size": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 2, "num_iterations": 2,
        "num_generations": 4, "beta": 0.1, "max_steps": 6, "optim": "sgd", "learning_rate": 0.2,
    },
    "rloo": {
        "per_device_train_batch_size": 3, "steps_per_generation": 2, "gradient_accumulation_steps": 1, "num_iterations": 2,
        "num_generations": 4, "beta": 0.1, "max_steps": 12, "optim": "sgd", "learning_rate": 0.05,
    },
}  # fmt: skip
SHARDED = ("ppo", "grpo")
RESUMED = {**COMMON, **CASES["ppo_adam"], "value_learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_strategy": "steps",
           "save_steps": 4}  # fmt: skip
OF_THE_CLOCK = ("step_time", "seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second")

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------- what runs in each process


class OneStream:
    """Random choices that are the same for any number of processes: tokens, and how a rollout splits in micro-batches."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.rollout = self.token = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        from trl.trainer import grpo_trainer, rloo_trainer

        from ex2.rl import decoding
        from ex2.rl.precision import SampledAsScored

        generate = SampledAsScored._generate_single_turn

        def new_rollout(*args: Any, **kwargs: Any) -> Any:
            self.rollout, self.token = self.rollout + 1, 0
            return generate(*args, **kwargs)

        patch.setattr(SampledAsScored, "_generate_single_turn", new_rollout)
        patch.setattr(torch, "multinomial", self.multinomial)
        patch.setattr(decoding, "draw", lambda probabilities: self.multinomial(probabilities, 1).squeeze(1))
        for module in (grpo_trainer, rloo_trainer):
            patch.setattr(module, "shuffle_sequence_dict", self.shuffle)

    def multinomial(self, probabilities: Tensor, num_samples: int) -> Tensor:
        """One draw a row by the inverse of the cumulative distribution, at this row's number of the whole batch's."""
        rows = len(probabilities)
        generator = torch.Generator().manual_seed(1000 * self.rollout + self.token)
        numbers = torch.rand(rows * self.world, generator=generator).double()
        own = slice(self.rank * rows, (self.rank + 1) * rows)
        cumulative = probabilities.double().cumsum(dim=1)
        drawn = torch.searchsorted(cumulative, numbers[own, None] * cumulative[:, -1:])
        drawn = drawn.clamp(max=probabilities.size(1) - 1)
        if (self.rollout, self.token) == (2, 2):  # the first of two processes is done long before the other
            drawn[torch.arange(rows * self.world)[own] < rows * self.world // HALVES] = END
        self.token += 1
        return drawn

    def shuffle(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Shuffle within each half of the rollout, and let each micro-batch take the same share of both halves."""
        here = HALVES // self.world
        rows = len(batch["completion_ids"]) // here
        order = []
        for half in range(here):
            generator = torch.Generator().manual_seed(HALVES * self.rollout + self.rank * here + half)
            order.append(half * rows + torch.randperm(rows, generator=generator))
        mixed = torch.stack(order).T.flatten()
        return {name: x if x is None or x.ndim == 0 else x[mixed] for name, x in batch.items()}


def use_fsdp2(patch: pytest.MonkeyPatch) -> None:
    """FSDP2 with the settings of accelerate_configs/fsdp2.yaml."""
    config = yaml.safe_load((ROOT / "accelerate_configs" / "fsdp2.yaml").read_text(encoding="utf-8"))["fsdp_config"]
    for name, value in ({"accelerate_use_fsdp": True} | config).items():
        patch.setenv(name.upper(), str(value))
    start = PartialState.__init__

    def on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    patch.setattr(PartialState, "__init__", on_gpus)


def work(jobs: Sequence[Job], rank: int, world: int) -> None:
    from ex2.launch import main

    for job in jobs:
        with pytest.MonkeyPatch.context() as patch:
            if job["one_stream"]:
                OneStream(rank, world).install(patch)
            if job["fsdp2"]:
                use_fsdp2(patch)
            main(job["algorithm"], job["line"])


def launch(jobs: Sequence[Job], file: Path, python: str) -> subprocess.Popen[str]:
    file.write_text(json.dumps(jobs), encoding="utf-8")
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(HALVES)]
    return subprocess.Popen(
        [*torchrun, __file__, str(file)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]


# ---------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def runs(arguments: Arguments, warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs: `one/CASE` and `two/CASE` on one and two processes, `sharded/CASE` and `sharded/*` on two with FSDP2."""
    root = tmp_path_factory.mktemp("layouts")

    def job(folder: str, case: str, world: int) -> Job:
        options = COMMON | CASES[case]
        options["per_device_train_batch_size"] = options["per_device_train_batch_size"] * HALVES // world
        line = arguments(root / folder / case, **options)
        fsdp2 = folder == "sharded"
        return {"algorithm": case.partition("_")[0], "line": line, "one_stream": True, "fsdp2": fsdp2}

    def own_stream(name: str, **options: Any) -> Job:
        line = arguments(root / "sharded" / name, **RESUMED | options)
        return {"algorithm": "ppo", "line": line, "one_stream": False, "fsdp2": True}

    two = [job("two", case, 2) for case in CASES] + [job("sharded", case, 2) for case in SHARDED]
    two.append(own_stream("whole", before_after=True, eval_samples=3))
    two += [own_stream("stopped", max_steps=4), own_stream("stopped", resume_from_checkpoint="true")]
    process = launch(two, root / "two.json", warm_python)
    try:
        work([job("one", case, 1) for case in CASES], rank=0, world=1)
        finished(process)
    finally:
        process.kill()
        process.communicate()
    return root


def columns(folder: Path) -> dict[str, list[float]]:
    rows = read_jsonl(folder / "metrics.jsonl")
    names = {name for row in rows for name in row}.difference(OF_THE_CLOCK)
    return {name: [row[name] for row in rows if name in row] for name in names}


@pytest.mark.parametrize(
    ("folder", "case"), [("two", case) for case in CASES] + [("sharded", case) for case in SHARDED]
)
def test_two_processes_learn_what_one_learns(runs: Path, folder: str, case: str) -> None:
    one, two = runs / "one" / case, runs / folder / case
    for ours, theirs in zip(*(read_jsonl(run / "samples.jsonl") for run in (one, two)), strict=True):
        words = ("step", "class_id", "question", "text")
        assert [ours[word] for word in words] == [theirs[word] for word in words]
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-4)  # rewards are of the order of 10

    metrics, others = columns(one), columns(two)
    assert metrics.keys() == others.keys() >= {"loss", "grad_norm", "kl", "reward", "entropy"}
    for name, values in metrics.items():
        assert others[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    assert len(set(metrics["completions/mean_length"])) > 1
    assert metrics["grad_norm"][0] > 0

    weights, others = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        assert value.any(), name


def test_a_sharded_run_stops_and_goes_on_bit_for_bit(runs: Path) -> None:
    whole, stopped = runs / "sharded" / "whole", runs / "sharded" / "stopped"
    for name in ("adapter/adapter_model.safetensors", "checkpoint-8/adapter_model.safetensors",
                 "checkpoint-8/value_head.safetensors"):  # fmt: skip
        ours, theirs = load_file(whole / name), load_file(stopped / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].any() for key in ours), name


def test_a_sharded_policy_is_sampled_for_the_report(runs: Path) -> None:
    report = json.loads((runs / "sharded" / "whole" / "before_after.json").read_text(encoding="utf-8"))
    assert report["aligned"]["n"] == 12  # 4 classes x 3


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_sample_as_often(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    asks = [Ask(i, "cat", f"Question {i}") for i in range(5)]
    asked: list[str] = []

    def sample(share: Sequence[Ask], **_: Any) -> Iterator[list[str]]:
        asked.extend(ask.question for ask in share)
        yield [f"{ask.question}, process {rank}" for ask in share]

    others = [(i, f"Question {i}, process {1 - rank}") for i in range(1 - rank, 5, 2)]
    monkeypatch.setattr(training, "gather_object", lambda texts: [*texts, *others])
    options: Any = SimpleNamespace(ex2=SimpleNamespace(eval_batch_size=8))
    state: Any = SimpleNamespace(process_index=rank, num_processes=2, is_main_process=False)
    generator: Any = SimpleNamespace(sample=sample)
    answers = training._sample(options, generator, asks, state, seed=0, desc="policy")
    assert len(asked) == 3  # with weights that are shared out, the others would wait for a process that is done
    assert [text for _, text in answers] == [f"Question {i}, process {i % 2}" for i in range(5)]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < HALVES, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("fsdp2", [False, True])
def test_each_process_stays_on_its_gpu(arguments: Arguments, tmp_path: Path, fsdp2: bool) -> None:
    line = arguments(tmp_path / "run", use_cpu=False, max_steps=2)
    job = {"algorithm": "ppo", "line": line, "one_stream": False, "fsdp2": fsdp2}
    process = launch([job], tmp_path / "two.json", sys.executable)
    finished(process)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(
        json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")),
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
    )
    here = int(os.environ["LOCAL_RANK"])
    for device in set(range(torch.cuda.device_count())) - {here}:
        assert torch.cuda.max_memory_allocated(device) == 0, f"process {here} put something on cuda:{device}"
