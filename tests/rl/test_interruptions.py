"""What happens to long runs: kills at every stage of a save, SIGTERM, full disks, numbers that are not finite, wandb."""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ex2.base.errors import UserError
from ex2.launch import main
from ex2.rl.checkpoints import UNFINISHED, checkpoints, damage
from ex2.run.folder import read_jsonl
from ex2.run.wandb_run import WANDB_ID, check_wandb

ROOT = Path(__file__).resolve().parents[2]
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def short(arguments: Arguments) -> Arguments:
    """Command line of a run of two rollouts without report, one checkpoint after each, of which the newest stays."""
    return lambda folder, **overrides: arguments(folder, **{"before_after": False, "save_total_limit": 1, **overrides})


@pytest.fixture(scope="module")
def whole(short: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    main("ppo", short(folder))
    return folder


def stop_line(capsys: pytest.CaptureFixture[str], line: list[str], status: int, algorithm: str = "ppo") -> str:
    """The one line of a run that must stop with an exit status."""
    with pytest.raises(SystemExit) as stop:
        main(algorithm, line)
    assert stop.value.code == status
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (found,) = [row for row in stderr.splitlines() if row.startswith(("error:", "SIGTERM:"))]
    return found


@pytest.mark.parametrize("step", [1, 3])
def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    step: int,
    short: Arguments,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ex2.run.folder import RunLog

    logged = RunLog.on_log

    def interrupt(self: RunLog, args: Any, state: Any, *rest: Any, **options: Any) -> None:
        logged(self, args, state, *rest, **options)
        if state.global_step == step:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    try:
        with monkeypatch.context() as patched:
            patched.setattr(RunLog, "on_log", interrupt)
            with pytest.raises(SystemExit) as stop:
                main("ppo", short(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    (line,) = [row for row in capsys.readouterr().err.splitlines() if "rror" in row or row.startswith("Interrupted")]
    assert (
        line
        == {
            1: "Interrupted. There is no checkpoint yet: start again with --overwrite true.",
            3: "Interrupted. checkpoint-2 is whole: go on with --resume_from_checkpoint true.",
        }[step]
    )
    if step == 3:
        goes_on(short, tmp_path / "run", whole)


def goes_on(short: Arguments, folder: Path, whole: Path) -> None:
    """Resume a run and see that it ends like one that nothing happened to, and leaves nothing behind."""
    main("ppo", short(folder, resume_from_checkpoint="true"))
    last = "checkpoint-4"
    for name in ("adapter/adapter_model.safetensors", "samples.jsonl", f"{last}/value_head.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in folder.iterdir()} - {WANDB_ID} == {path.name for path in whole.iterdir()}
    assert damage(folder / last) is None


@pytest.fixture
def during_rollout(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Any], None]], None]:
    """`during_rollout(step, action)`: call `action` with the trainer while it samples after that step."""
    from ex2.run.trainers import SampleLog

    original = SampleLog._calculate_rewards

    def install(step: int, action: Callable[[Any], None]) -> None:
        def patched(self: Any, *args: Any) -> Any:
            if self.state.global_step == step:
                action(self)
            return original(self, *args)

        monkeypatch.setattr(SampleLog, "_calculate_rewards", patched)

    return install


# ---------------------------------------------------------------- kills


def in_child(line: list[str], hook: Callable[[], None]) -> int:
    """Train in a process of its own, where `hook` is called first. Returns its wait status."""
    process = os.fork()  # an interpreter of its own would spend most of its time with imports
    if process == 0:
        try:
            hook()
            main("ppo", line)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(process, 0)[1]


def watch_files(see: Callable[[str], None]) -> None:
    """Call `see` before each operation on a file of the second checkpoint: its writing, its taking place, the rotation."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            text = f"{event} {arguments}"
            if any(f"{UNFINISHED}/{name}" in text for name in ("checkpoint-4", "old-checkpoint-2")):
                see(text)

    sys.addaudithook(audit)


@pytest.fixture(scope="module")
def file_operations(short: Arguments, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The operations that `watch_files` sees in a run that is not killed."""
    folder = tmp_path_factory.mktemp("counted")
    log = os.open(folder / "operations.txt", os.O_CREAT | os.O_WRONLY)
    status = in_child(short(folder / "run"), lambda: watch_files(lambda text: os.write(log, f"{text}\n".encode())))
    os.close(log)
    assert status == 0
    return (folder / "operations.txt").read_text().splitlines()


STAGES = 7
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a forked process cannot use the GPU of its parent")


@no_gpu
@pytest.mark.parametrize("stage", range(STAGES))
def test_killed_at_each_stage_of_a_save(
    stage: int, file_operations: list[str], short: Arguments, whole: Path, tmp_path: Path
) -> None:
    """From the first operation on a checkpoint to the last of the rotation of the one before."""
    assert len(file_operations) > 2 * STAGES
    left = 1 + stage * (len(file_operations) - 1) // (STAGES - 1)

    def kill(text: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    folder = tmp_path / "run"
    status = in_child(short(folder), lambda: watch_files(kill))
    assert os.WTERMSIG(status) == signal.SIGKILL
    # At every moment there is a whole checkpoint, and none that is not whole.
    found = checkpoints(folder)
    assert found
    assert [damage(path) for path in found.values()] == [None] * len(found)
    goes_on(short, folder, whole)


@no_gpu
@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_killed_at_some_moment(seconds: float, short: Arguments, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def kill_later() -> None:
        while not checkpoints(folder):
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    status = in_child(short(folder), threading.Thread(target=kill_later, daemon=True).start)
    assert status in (0, signal.SIGKILL)  # 0: it was faster than that
    goes_on(short, folder, whole)


# ---------------------------------------------------------------- SIGTERM


def test_sigterm_saves_at_the_end_of_the_rollout_and_stops(
    short: Arguments,
    whole: Path,
    during_rollout: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    during_rollout(0, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    line = stop_line(capsys, short(folder, save_steps=4), status=143)
    assert line == (
        "SIGTERM: the run stops after step 2 of 4, whose checkpoint is saved. --resume_from_checkpoint true goes on."
    )
    assert list(checkpoints(folder)) == [2]
    assert not (folder / "adapter").exists()
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # before and after training it just ends the process
    goes_on(short, folder, whole)
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 3, 4, 4]


# ---------------------------------------------------------------- a full disk


@pytest.mark.parametrize("name", ["samples.jsonl", "metrics.jsonl"])
def test_logs_on_a_full_disk(
    name: str,
    short: Arguments,
    whole: Path,
    during_rollout: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"

    def fill(trainer: Any) -> None:
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to("/dev/full")

    during_rollout(2, fill)
    line = stop_line(capsys, short(folder), status=1)
    assert line.startswith(f"error: {name} could not be written ([Errno 28] No space left on device; ")
    assert line.endswith("). checkpoint-2 is whole: make room and go on with --resume_from_checkpoint true.")
    assert f"GiB are free on the disk of {folder}" in line
    (folder / name).unlink()
    (tmp_path / name).rename(folder / name)
    during_rollout(-1, fill)  # there is room again
    goes_on(short, folder, whole)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (3000, "File too large"),
        (6000, "os error 27"),
        (12000, "File too large|PytorchStreamWriter|iostream|unexpected pos"),
    ],
    ids=["safetensors", "tokenizers", "torch"],
)
def test_checkpoints_on_a_full_disk(
    limit: int,
    words: str,
    short: Arguments,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The limit on the size of files lets one writer after the other fail: adapter, tokenizer, optimizer."""
    from ex2.rl.resume import ExactResume

    original = ExactResume._write

    def write(self: Any, *args: Any) -> None:
        _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.state.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            original(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ExactResume, "_write", write)
        line = stop_line(capsys, short(folder), status=1)
    assert line.startswith("error: checkpoint-4 could not be written (")
    assert re.search(words, line)
    assert line.endswith("checkpoint-2 is whole: make room and go on with --resume_from_checkpoint true.")
    assert list(checkpoints(folder)) == [2]
    assert not (folder / UNFINISHED).exists()
    goes_on(short, folder, whole)


# ---------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("what", ["reward", "loss"])
def test_other_algorithms_stop_like_ppo(
    algorithm: str,
    what: str,
    short: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from trl import GRPOTrainer, RLOOTrainer

    trainer_type = {"grpo": GRPOTrainer, "rloo": RLOOTrainer}[algorithm]
    method = {"reward": "_calculate_rewards", "loss": "_compute_loss"}[what]
    original = getattr(trainer_type, method)

    def poisoned(self: Any, *args: Any) -> Any:
        value = original(self, *args)
        return value * math.nan if self.state.global_step == 2 else value

    monkeypatch.setattr(trainer_type, method, poisoned)
    folder = tmp_path / "run"
    line = stop_line(capsys, short(folder), status=1, algorithm=algorithm)
    dump = folder / "bad_step_2_rank0.jsonl"
    assert line == (
        f"error: Training stops at step 2: {'a reward' if what == 'reward' else 'the loss'} is not finite. The samples of this "
        f"step are in {dump}; earlier checkpoints are untouched. Lower learning_rate or raise beta."
    )
    rows = read_jsonl(dump)
    assert len(rows) == (8 if what == "reward" else 4)
    assert {"prompt", "completion", "advantages", "score"} <= set(rows[0])
    assert {row["score"] for row in rows} == {"nan"} if what == "reward" else all(row["score"] for row in rows)
    assert list(checkpoints(folder)) == [2]


# ---------------------------------------------------------------- wandb


def test_a_resumed_run_goes_on_under_its_wandb_id(
    short: Arguments, whole: Path, tmp_path: Path, wandb_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    main("ppo", short(folder, report_to="wandb", max_steps=2))
    run_id = (folder / WANDB_ID).read_text().strip()
    assert [path.name for path in wandb_folder.glob(f"offline-run-*-{run_id}")]
    time.sleep(1.1)  # wandb names its folders by the second
    main("ppo", short(folder, report_to="wandb", resume_from_checkpoint="true"))
    assert (folder / WANDB_ID).read_text().strip() == run_id
    assert {path.name.rpartition("-")[2] for path in wandb_folder.glob("offline-run-*")} == {run_id}
    assert len(list(wandb_folder.glob("offline-run-*"))) == 2

    monkeypatch.setenv("WANDB_RUN_ID", "mine1234")
    main("ppo", short(folder, report_to="wandb", resume_from_checkpoint="true"))
    assert list(wandb_folder.glob("offline-run-*-mine1234"))


@pytest.mark.parametrize("silent", [False, True])
def test_wandb_out_of_reach_ends_soon_in_one_line(
    short: Arguments, warm_python: str, tmp_path: Path, silent: bool, request: pytest.FixtureRequest
) -> None:
    """The connection is refused, or taken by a server that never answers: wandb's own process would go on trying."""
    pytest.importorskip("wandb")
    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    request.addfinalizer(server.close)
    if not silent:
        server.close()
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    own |= {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": url, "WANDB_HTTP_TIMEOUT": "3"}
    line = [warm_python, str(ROOT / "train" / "ppo_ex2.py"), *short(tmp_path / "run", report_to="wandb")]
    result = subprocess.run(line, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (error,) = [row for row in result.stderr.splitlines() if row.startswith("error:")]
    for part in ("report_to=wandb", url, "WANDB_MODE=offline", "--report_to none"):
        assert part in error
    assert not (tmp_path / "run").exists()


def test_wandb_without_a_key_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")

    def no_key(**options: Any) -> bool:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "setup", lambda: SimpleNamespace(settings=SimpleNamespace(mode="online")))
    monkeypatch.setattr(wandb, "login", no_key)
    with pytest.raises(UserError, match=r"^report_to=wandb: No API key configured\. .* \(--report_to none\)\.$"):
        check_wandb(["wandb"])
    check_wandb(["tensorboard"])


# ---------------------------------------------------------------- saves ask no hub


def test_saves_do_not_ask_the_hub(short: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: Any, **kwargs: Any) -> bool:
        raise AssertionError("PEFT asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", asked)
    monkeypatch.setattr("ex2.run.trainers.public_name", lambda name: "some/model")
    main("ppo", short(tmp_path / "run", max_steps=2))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
