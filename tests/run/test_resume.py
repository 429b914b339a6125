"""Stop and go on: the same weights, optimizer, texts and metrics as a run that was never stopped, bit for bit.

Run by torchrun, this file is the script of two processes that do what the tests do in one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.parse import parse_options
from ex2.rl.checkpoints import checkpoints
from ex2.run.folder import read_jsonl
from ex2.run.training import run
from tests.fuzz.kills import random_kills

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = ("ppo", "grpo", "rloo")
Arguments = Callable[..., list[str]]

# 8 prompts, 4 in a rollout: two rollouts an epoch, two updates a rollout. LoRA dropout is on, and prompts are shuffled.
LONG: dict[str, Any] = {"max_steps": 8, "before_after": False, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def long(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Arguments:
    """Command line of a run of four rollouts over two epochs, with a checkpoint after each."""
    questions = tmp_path_factory.mktemp("questions") / "questions.txt"
    questions.write_text("Describe a {}.\nWhat does a {} look like?\n")
    return lambda folder, **overrides: arguments(folder, **{**LONG, "questions": questions, **overrides})


# ---------------------------------------------------------------- what must be equal


def stopped_at(step: int, finished: Path, folder: Path) -> Path:
    """A copy of a finished run as if it had been killed after the checkpoint of a step, with rows of later steps in its logs."""
    shutil.copytree(finished, folder)
    for name in ("adapter", *(f"checkpoint-{later}" for later in checkpoints(folder) if later > step)):
        shutil.rmtree(folder / name)
    return folder


def tensors_equal(one: Any, other: Any) -> bool:
    """Whether nested state dicts are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(tensors_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(tensors_equal, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else bool(one == other)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each update without times; of the summary, only that it is there."""
    times = {"seconds", "step_time", "epoch"}
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in times} for row in rows[:-1]] + [
        {"summary": "train_runtime" in rows[-1]}
    ]


def assert_same_end(folder: Path, expected: Path) -> None:
    """Compare everything that two runs left behind."""
    last = list(checkpoints(expected).values())[-1].name
    names = [path.relative_to(expected).as_posix() for path in (expected / last).iterdir()]
    assert sorted(names) == sorted(path.relative_to(folder).as_posix() for path in (folder / last).iterdir())
    skipped = ("training_args.bin", "trainer_state.json", "README.md", "manifest.json")  # paths and times
    for name in ["adapter/adapter_model.safetensors", "samples.jsonl", *names]:
        if name.endswith(("optimizer.pt", "scheduler.pt", ".pth")):
            states = [torch.load(run / name, weights_only=False) for run in (folder, expected)]
            assert tensors_equal(*states), name
        elif not name.endswith(skipped):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
    assert metrics(folder) == metrics(expected)


def assert_learned(folder: Path) -> None:
    """That the run is a test at all: weights moved, and sampled texts differ from rollout to rollout."""
    rows = read_jsonl(folder / "samples.jsonl")
    assert [row["step"] for row in rows if row["step"]] == sorted(row["step"] for row in rows if row["step"])
    assert len({json.dumps(row["text"]) for row in rows}) > len(rows) / 2
    assert any(row.get("kl", 0) != 0 for row in read_jsonl(folder / "metrics.jsonl"))


# ---------------------------------------------------------------- one process


@pytest.fixture(scope="module")
def straight(long: Arguments, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each algorithm that was never stopped."""
    root = tmp_path_factory.mktemp("straight")
    for algorithm in ALGORITHMS:
        beta = {} if algorithm == "ppo" else {"beta": 0.05}
        main(algorithm, long(root / algorithm, **beta))
        assert_learned(root / algorithm)
    return {algorithm: root / algorithm for algorithm in ALGORITHMS}


@pytest.mark.parametrize("step", [2, 4])  # within the first epoch and at its end
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resumed_run_equals_one_that_was_never_stopped(
    algorithm: str, step: int, straight: dict[str, Path], long: Arguments, tmp_path: Path
) -> None:
    folder = stopped_at(step, straight[algorithm], tmp_path / "run")
    beta = {} if algorithm == "ppo" else {"beta": 0.05}
    torch.manual_seed(step)  # whatever the state of the generator before
    main(algorithm, long(folder, resume_from_checkpoint="true", **beta))
    assert_same_end(folder, straight[algorithm])


def test_random_kills_leave_no_trace(straight: dict[str, Path], long: Arguments, tmp_path: Path) -> None:
    """A few, at moments of the computation; `python -m tests.fuzz.kills --only random` does twenty."""
    kills = random_kills(lambda folder: long(folder), tmp_path / "run", kills=3, longest=1.0, expected=straight["ppo"])
    assert kills >= 2


@pytest.mark.parametrize("killed", [False, True])
def test_a_finished_run_that_is_resumed_makes_adapter_and_report_again(
    arguments: Arguments, trained_run: Path, tmp_path: Path, killed: bool
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    shutil.rmtree(folder / "adapter")
    for name in ("before_after.md", "before_after.json", "README.md"):
        (folder / name).unlink()
    if killed:  # after its last checkpoint, before its summary
        rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(rows[:-1]))
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".jsonl", ".pt")}
    main("ppo", arguments(folder, resume_from_checkpoint="true"))
    if killed:
        del before[folder / "metrics.jsonl"]
    assert {path: path.read_bytes() for path in before} == before
    assert metrics(folder) == metrics(trained_run)
    name = "adapter/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (trained_run / name).read_bytes()
    first, again = (json.loads((run / "before_after.json").read_text()) for run in (trained_run, folder))
    assert again["aligned"] == first["aligned"]
    assert again["meta"]["training_text_encodings"] is None  # not 0, which is all that the second start has seen
    assert (folder / "README.md").is_file()


def test_a_longer_resumed_run_keeps_the_untrained_policys_texts(
    arguments: Arguments, trained_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    before = (folder / "base_samples.jsonl").read_text()
    run(parse_options("ppo", arguments(folder, resume_from_checkpoint="true", max_steps=6, best_of_n=5)))
    assert (folder / "base_samples.jsonl").read_text() == before
    assert len(read_jsonl(folder / "samples.jsonl")) == 24
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 6]


# ---------------------------------------------------------------- what is not resumed


def test_a_checkpoint_inside_a_rollout_is_not_resumed(arguments: Arguments, trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    (folder / "checkpoint-4").rename(folder / "checkpoint-5")
    with pytest.raises(UserError, match="checkpoint-5 lies inside a rollout of 2 updates"):
        run(parse_options("ppo", arguments(folder, resume_from_checkpoint="true")))


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "adapter_model.safetensors", "value_head.safetensors", "manifest.json"]
)
def test_a_damaged_checkpoint_is_one_line(
    name: str, arguments: Arguments, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    file = folder / "checkpoint-4" / name
    file.write_bytes(file.read_bytes()[:100])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        main("ppo", arguments(folder, resume_from_checkpoint=folder / "checkpoint-4"))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: resume_from_checkpoint={folder / 'checkpoint-4'} is no whole checkpoint: {name} ")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_true_falls_back_to_an_older_checkpoint(
    straight: dict[str, Path], long: Arguments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight["ppo"], folder)
    (folder / "checkpoint-8" / "optimizer.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="ex2"):
        main("ppo", long(folder, resume_from_checkpoint="true"))
    assert "Going on from checkpoint-6: not whole are checkpoint-8 (optimizer.pt is missing)." in caplog.messages
    assert_same_end(folder, straight["ppo"])


# ---------------------------------------------------------------- two processes


@contextmanager
def at_second_rollout(action: Callable[[Any], None]) -> Iterator[None]:
    """Call `action` with the trainer in the middle of the second rollout of a run."""
    from ex2.run.trainers import SampleLog

    original = SampleLog._calculate_rewards

    def patched(self: Any, *args: Any) -> Any:
        if self.state.global_step == 2:
            action(self)
        return original(self, *args)

    SampleLog._calculate_rewards = patched  # type: ignore[method-assign]
    try:
        yield
    finally:
        SampleLog._calculate_rewards = original  # type: ignore[method-assign]


def two_processes(root: Path, lines: dict[str, list[str]]) -> None:
    """What each of the two processes does; exit statuses of runs that must stop go to status_RANK.json."""
    from accelerate import PartialState

    rank, statuses = int(os.environ["RANK"]), {}
    for algorithm in ALGORITHMS:
        main(algorithm, ["--output_dir", str(root / algorithm), *lines[algorithm]])
        stopped = root / f"{algorithm}_resumed"
        if rank == 0:
            stopped_at(2, root / algorithm, stopped)
        PartialState().wait_for_everyone()
        torch.manual_seed(rank)
        main(algorithm, ["--output_dir", str(stopped), *lines[algorithm], "--resume_from_checkpoint", "true"])

    def preempt(trainer: Any) -> None:
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def diverge(trainer: Any) -> None:
        if rank == 1:
            with torch.no_grad():
                trainer.value_head.linear.bias.fill_(torch.nan)

    def fill_disk(trainer: Any) -> None:
        if rank == 0:
            trainer.samples_path.unlink()
            trainer.samples_path.symlink_to("/dev/full")

    for action in (preempt, diverge, fill_disk):
        with at_second_rollout(action):
            try:
                main("ppo", ["--output_dir", str(root / action.__name__), *lines["ppo"]])
            except SystemExit as stop:
                statuses[action.__name__] = stop.code
    (root / f"status_{rank}.json").write_text(json.dumps(statuses))


@pytest.fixture(scope="module")
def two(long: Arguments, warm_python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the runs of two processes, and what they printed on standard error."""
    root = tmp_path_factory.mktemp("two")
    lines = {}
    for algorithm in ALGORITHMS:
        beta = {} if algorithm == "ppo" else {"beta": 0.05}
        # With two processes a rollout takes all 8 prompts: an epoch is one rollout.
        lines[algorithm] = long("", max_steps=6, **beta)[2:]
    plan = root / "plan.json"
    plan.write_text(json.dumps(lines))
    torchrun = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*torchrun, str(Path(__file__)), str(root)],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return root, result.stderr


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_processes_resume_exactly(algorithm: str, two: tuple[Path, str]) -> None:
    root, _ = two
    assert_learned(root / algorithm)
    assert len(list((root / algorithm / "checkpoint-6").glob("rng_state_*.pth"))) == 2
    assert_same_end(root / f"{algorithm}_resumed", root / algorithm)


def test_two_processes_stop_together(two: tuple[Path, str]) -> None:
    root, stderr = two
    for rank in (0, 1):
        statuses = json.loads((root / f"status_{rank}.json").read_text())
        assert statuses == {"preempt": 143, "diverge": 1, "fill_disk": 1}
    lines = [line for line in stderr.splitlines() if line.startswith(("error:", "SIGTERM:"))]
    assert len(lines) == 3  # one each, of the main process
    assert lines[0].startswith("SIGTERM: the run stops after step 4 of 6, whose checkpoint is saved.")
    assert "bad_step_2_rank*.jsonl" in lines[1]
    assert len(list((root / "diverge").glob("bad_step_2_rank?.jsonl"))) == 2
    assert "samples.jsonl could not be written ([Errno 28] No space left on device" in lines[2]
    assert [list(checkpoints(root / name)) for name in ("preempt", "diverge", "fill_disk")] == [[2, 4], [2], [2]]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    two_processes(folder, json.loads((folder / "plan.json").read_text()))
