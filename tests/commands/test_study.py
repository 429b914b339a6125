"""`ex2 study`: one command from images to an answer, which keeps what is done and goes on where it was interrupted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.texts.descriptions import read_descriptions

Arguments = Callable[..., list[str]]
Study = Callable[..., None]


Line = Callable[..., list[str]]


@pytest.fixture(scope="module")
def line(arguments: Arguments, tiny_chat_llm: Path) -> Line:
    """The arguments of `ex2` for a study in a folder."""
    usual = {"model_name_or_path": tiny_chat_llm, "max_steps": 2, "best_of_n": 12}
    return lambda folder, **options: ["study", *arguments(folder, **usual | options)]


@pytest.fixture(scope="module")
def study(line: Line) -> Study:
    """Runs `ex2 study` into a folder."""
    return lambda folder, **options: main(line(folder, **options))


@pytest.fixture(scope="module")
def studied(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a study that a process of its own has finished; whoever takes something away has it made again.

    What the process printed is in the file `log` beside it.
    """
    folder = tmp_path_factory.mktemp("study") / "four"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    with folder.with_name("log").open("w", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-c", "from ex2.cli import main; main()", *line(folder)],
            cwd=Path(__file__).resolve().parents[2],
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )
    return folder


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_run_that_was_being_put_aside_is_seen(
    studied: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill between two of the files that `--overwrite` moves, the first of which says that there is a run."""
    (studied / "_replaced.moving").mkdir()
    (studied / "config.yaml").rename(studied / "_replaced.moving" / "config.yaml")
    study(studied)
    assert "\ndone before\n" in capsys.readouterr().out
    assert (studied / "config.yaml").is_file()
    assert not (studied / "_replaced.moving").exists()


def test_a_study_that_is_done_is_answered_from_its_files(
    studied: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(studied)
    study(studied)
    assert times(studied) == before
    printed = capsys.readouterr().out
    assert "[1/4] training (PPO)\n" in printed
    assert "\ndone before\n[2/4] " in printed
    order = [
        "\nAs written, the policy's texts ",
        "  before  ",
        "without the class name, in percent:\nsystem ",
        "\nbase ",
        "\naligned ",
        "\nThe same with the class name: With the descriptions aligned ",
        "\nReport, with ",
        "Next: `ex2 view",
        "`ex2 export",
    ]
    places = [printed.index(part) for part in order]
    assert places == sorted(places)
    assert (studied / "analysis" / "report.html").is_file()


def test_the_log_of_a_study_fits_on_a_screen_without_warnings(studied: Path) -> None:
    """Where there is no terminal: four steps, a line a minute in between, and the answer; nothing of other libraries."""
    log = studied.with_name("log").read_text(encoding="utf-8")
    lines = log.splitlines()
    assert len(lines) <= 40
    assert all(lines)
    steps = [line for line in lines if not re.fullmatch(r"[\w ]+: \d+ of \d+ .* left.*", line)]  # of a slow machine
    assert [step[:5] for step in steps[:4]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert steps[4].startswith("No statement about preference: 4 classes are too few")
    assert not re.search(r"warning:|\r|it/s", log, re.IGNORECASE)
    assert re.match(rf"Report, with \d warnings: {studied}/analysis/report.html; more: ", lines[-1])


def test_the_first_line_comes_before_libraries_that_take_seconds(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ex2.options.parse", None)  # importing it fails
    with pytest.raises(ImportError):
        main(line(tmp_path / "new"))
    assert capsys.readouterr().out == "[1/4] training (PPO)\n"


def test_untrained_texts_of_the_run_are_used_as_many_of_each_class_as_there_are_trained_ones(studied: Path) -> None:
    aligned, base = (read_descriptions(studied / f"{name}.jsonl") for name in ("aligned", "base"))
    assert [r.class_id for r in base].count(0) == [r.class_id for r in aligned].count(0) > 0
    assert {r.model for r in base} == {"base"}


def test_what_is_missing_is_made_again_and_nothing_else(studied: Path, study: Study) -> None:
    before = times(studied)
    shutil.rmtree(studied / "accuracy_with")
    study(studied)
    changed = {name for name, time in times(studied).items() if before.get(name) != time}
    assert {Path(name).parts[0] for name in changed} == {"accuracy_with"}


def test_an_interrupted_training_goes_on(studied: Path, study: Study) -> None:
    weights = (studied / "adapter" / "adapter_model.safetensors").read_bytes()
    texts = {name: read_descriptions(studied / name) for name in ("aligned.jsonl", "base.jsonl")}
    (studied / "README.md").unlink()  # the last file of a run
    shutil.rmtree(studied / "adapter")
    study(studied)
    assert (studied / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert {name: read_descriptions(studied / name) for name in texts} == texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lora_r": 2},
            "holds another run: lora_r was 4, is 2. Name another folder (--out), or replace it (--overwrite true).",
        ),
        ({"pairs": 1}, "pairs: a study is about single classes; for pairs see docs/classify.md."),
    ],
)
def test_another_run_is_refused(
    studied: Path, study: Study, options: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(studied)
    with pytest.raises(SystemExit) as stop:
        study(studied, **options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert times(studied) == before


def test_the_folder_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", "quickstart", "--out", "a", "--output_dir", "b"])
    assert capsys.readouterr().err == "error: --out and --output_dir are the same: leave one out.\n"


def test_a_dry_run_says_what_it_would_take(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path / "new", dry_run=True)
    assert "# Memory of one process" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_launcher_gets_script_and_options_and_its_failure_is_one_line(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        f"import sys; print('a table'); open({str(tmp_path / 'line')!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit(3)"
    )
    with pytest.raises(SystemExit) as stop:
        study(tmp_path / "new", launcher=f"{sys.executable} {launcher}")
    assert stop.value.code == 2
    said = capfd.readouterr()
    assert "a table" not in said.out
    assert said.err == f"error: --launcher {sys.executable} {launcher}: the training ended with status 3.\n"
    script, *options = (tmp_path / "line").read_text().split()
    assert Path(script).name == "ppo_ex2.py"
    assert Path(script).is_file()
    assert options[:2] == ["--config", "quickstart"]
    assert f"--output_dir {tmp_path / 'new'}" in " ".join(options)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "launcher",
            "acelerate launch",
            "--launcher acelerate launch: there is no program acelerate; give one such as",
        ),
        ("launcher", "accelerate 'launch", "--launcher accelerate 'launch: No closing quotation."),
        ("launcher", "", "--launcher is empty: give a command such as"),
        ("judge", "loca", "judge 'loca' is not known: did you mean `local`?"),
        ("judge", "openai:gpt", "judge openai:gpt needs a key: set OPENAI_API_KEY."),
        ("judge", "hf:./none", "judge hf:./none: ./none is not a folder."),
    ],
)
def test_what_a_later_step_needs_is_missed_before_training(
    option: str,
    value: str,
    message: str,
    refused: Callable[[list[str]], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert message in refused(["study", f"--{option}", value, "--out", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
