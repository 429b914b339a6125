"""`ex2 study`: one command from images to an answer, which keeps what is done and goes on where it was interrupted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.texts.descriptions import read_descriptions

Arguments = Callable[..., list[str]]
Study = Callable[..., None]


@pytest.fixture(scope="module")
def study(arguments: Arguments, tiny_chat_llm: Path) -> Study:
    """Runs `ex2 study` into a folder."""
    usual = {"model_name_or_path": tiny_chat_llm, "max_steps": 2, "best_of_n": 12}
    return lambda folder, **options: main(["study", *arguments(folder, **usual | options)])


@pytest.fixture(scope="module")
def studied(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished study; whoever takes something away has it made again."""
    folder = tmp_path_factory.mktemp("study") / "four"
    study(folder)
    return folder


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_a_study_that_is_done_is_answered_from_its_files(
    studied: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(studied)
    study(studied)
    assert times(studied) == before
    printed = capsys.readouterr().out
    assert "[1/5] training: done before" in printed
    order = [
        "share change",
        "\n  before  ",
        "without the class name",
        "with the class name",
        "Report: ",
        "Next: `ex2 export",
    ]
    places = [printed.index(part) for part in order]
    assert places == sorted(places)
    assert printed.count("name+aligned") == 2
    assert (studied / "analysis" / "report.html").is_file()


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
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = tmp_path / "launcher.py"
    launcher.write_text(f"import sys; open({str(tmp_path / 'line')!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit(3)")
    with pytest.raises(SystemExit) as stop:
        study(tmp_path / "new", launcher=f"{sys.executable} {launcher}")
    assert stop.value.code == 2
    assert (
        capsys.readouterr().err == f"error: --launcher {sys.executable} {launcher}: the training ended with status 3.\n"
    )
    script, *options = (tmp_path / "line").read_text().split()
    assert Path(script).name == "ppo_ex2.py"
    assert Path(script).is_file()
    assert options[:2] == ["--config", "quickstart"]
    assert f"--output_dir {tmp_path / 'new'}" in " ".join(options)
