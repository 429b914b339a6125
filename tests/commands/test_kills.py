"""Commands that were killed: the same command again ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from ex2.analysis.study import Study
from ex2.base.folders import UNFINISHED
from ex2.base.locks import alone_at, alone_in
from ex2.cli import main
from ex2.launch import main as train
from ex2.texts.descriptions import Description, write_descriptions
from tests.fuzz.environments import commands
from tests.fuzz.kills import contents as written
from tests.fuzz.kills import line_into, sweep
from tests.fuzz.material import Material, basic
from tests.fuzz.promise import served
from tests.kills import ended, killed_before, started
from tests.run.test_resume import assert_same_end, stopped_at

NAMES = ("cat", "eagle", "ear of corn", "whale")


@pytest.fixture
def descriptions(class_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    texts = ("It has a long tail.", "A photo of a {}.", "It is used at home.")
    write_descriptions(
        path,
        [
            Description(
                f"folder:{class_folder}", i, name, "q", text.format(name), "m", 0, {}, extra={"vlm": "pictogram"}
            )
            for i, name in enumerate(NAMES)
            for text in texts
        ],
    )
    return path


def once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a function do its work at the first call only: what is tested is how results are written."""
    from pkgutil import resolve_name

    function, results = resolve_name(name), []

    def kept(*args: object, **options: object) -> object:
        if not results:
            results.append(function(*args, **options))
        return results[0]

    monkeypatch.setattr(name, kept)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".html", ".svg", ".png")  # times
    }


@pytest.fixture
def lines(descriptions: Path, class_folder: Path) -> dict[str, list[str]]:
    data = ["--dataset", f"folder:{class_folder}"]
    return {
        "classify": ["classify", "--vlm", "pictogram", *data, "--descriptions", str(descriptions)],
        "analyze": ["analyze", str(descriptions)],
    }


@pytest.mark.parametrize("command", ["classify", "analyze"])
def test_a_killed_command_is_taken_up_again(
    command: str,
    lines: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("ex2.commands.classify.open_scorer", "ex2.zero_shot.systems.compare", "ex2.commands.analyze.open_scorer",
                 "ex2.analysis.pipeline.analyse", "ex2.analysis.study_plots.draw", "ex2.analysis.report.render"):  # fmt: skip
        once(name, monkeypatch)
    line, expected, out = lines[command], tmp_path / "expected", tmp_path / "out"
    main([*line, "--out", str(expected)])
    operation, step = 1, 3 if command == "classify" else 37
    while killed_before(operation, lambda: main([*line, "--out", str(out)]), str(out)):
        operation += step
    assert contents(out) == contents(expected)


@pytest.fixture(scope="module")
def material(
    tiny_llm: Path, class_folder: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Material:
    return basic(tiny_llm, class_folder, trained_run, tmp_path_factory.mktemp("material"))


WRITERS = ("generate", "describe-pairs", "score", "judge", "export")


@pytest.mark.parametrize("command", WRITERS)
def test_a_killed_command_ends_as_if_nothing_had_happened(command: str, material: Material, tmp_path: Path) -> None:
    """At some of its operations; `python -m tests.fuzz.kills` tries each, of training and the other commands too."""
    every = {"generate": 5, "describe-pairs": 9, "export": 9}.get(command, 2)
    assert sweep(commands(material)[command], tmp_path, every) >= 2


@pytest.fixture(scope="module")
def more_material(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """With two analyses and a bundle."""
    root = tmp_path_factory.mktemp("more")
    analyses = (root / "one", root / "two")
    main(["analyze", str(material.texts), "--out", str(analyses[0])])
    shutil.copytree(*analyses)
    main(["export", str(material.run), "--no_descriptions", "--out", str(root / "bundle")])
    return replace(material, analyses=analyses, bundle=root / "bundle")


@pytest.mark.parametrize("command", [*WRITERS, "classify", "analyze", "compare", "label", "demo"])
def test_two_processes_at_once(
    command: str, more_material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused, or both are right: what is there in the end is what one alone writes."""
    assert more_material.analyses is not None
    study = Study.read(more_material.analyses[0])
    monkeypatch.setattr("ex2.analysis.pipeline.analyse", lambda *_, **__: study)  # what is tested is how it is written
    line, outs = commands(more_material)[command], [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
    with served():
        assert ended(started(lambda: main(line_into(line, outs[0])))) == 0
        children = [started(lambda: main(line_into(line, outs[1]))) for _ in range(2)]
    statuses = sorted(map(ended, children))
    assert statuses in ([0, 0], [0, 2])
    assert written(outs[1]) == written(outs[0])


@pytest.mark.parametrize("resumed", [False, True], ids=["begun", "resumed"])
def test_two_trainings_at_once(
    resumed: bool, arguments: Callable[..., list[str]], trained_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    line = arguments(folder)
    if resumed:
        stopped_at(2, trained_run, folder)
        line += ["--resume_from_checkpoint", "true"]
    children = [started(lambda: train("ppo", line)) for _ in range(2)]
    statuses = sorted(map(ended, children))
    assert statuses == [0, 2] or (resumed and statuses == [0, 0])  # a finished run may be resumed
    assert_same_end(folder, trained_run)


def test_an_unfinished_analysis_is_not_compared(tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text('{"tables": [], "meta": {}}')
    (tmp_path / "b" / UNFINISHED).write_text("analysis")
    line = refused(["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert line.endswith(f"{tmp_path / 'b'} holds an analysis that was not finished: run `ex2 analyze` again.")


@pytest.mark.parametrize(
    ("line", "lock"),
    [
        (["generate", "smollm2", "--out", "OUT.jsonl"], alone_at),
        (["describe-pairs", "smollm2", "--out", "OUT.json"], alone_at),
        (["export", "run", "--out", "OUT"], alone_at),
        (["analyze", "TEXTS", "--out", "OUT"], alone_in),
        (["classify", "--vlm", "pictogram", "--dataset", "pictograms", "--out", "OUT"], alone_in),
        (["compare", "a", "b", "--out", "OUT"], alone_in),
        (["label", "a", "--out", "OUT"], alone_in),
        (["score", "TEXTS", "--vlm", "pictogram", "--dataset", "pictograms", "--out", "OUT.jsonl"], alone_at),
        (["study", "quickstart", "--out", "OUT"], alone_at),
        (["train", "quickstart", "--output_dir", "OUT"], alone_in),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_second_process_is_told_of_the_first(
    line: list[str],
    lock: Callable[[Path, str], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[[list[str]], str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").touch()
    for name in ("run", "a", "b"):
        (tmp_path / name).mkdir()
    line = [part.replace("OUT", str(tmp_path / "out")).replace("TEXTS", str(tmp_path / "texts.jsonl")) for part in line]
    option = "output_dir" if line[0] == "train" else "--out"
    held = Path(line[line.index("--output_dir" if line[0] == "train" else option) + 1])
    if line[0] == "describe-pairs":
        held = held.with_suffix(".jsonl")  # where the answers are kept as they come
    with lock(held, option):
        assert f"{option} {held} is in use by process {os.getpid()} on " in refused(line)


def test_a_mistyped_file_leaves_no_folder(tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    line = ["score", str(tmp_path / "rnus" / "texts.jsonl"), "--vlm", "pictogram", "--dataset", "pictograms"]
    assert "texts.jsonl: no such file; " in refused(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["generate", "describe-pairs", "judge", "score"])
def test_an_output_that_cannot_be_written_is_seen_before_the_work(
    command: str, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "labels.jsonl").write_text('{"class_name": "owl", "text": "It flies.", "category": "visual"}\n')
    out = tmp_path / "file" / "out.json"
    line = {
        "generate": ["generate", "smollm2", "--dataset", "pictograms"],
        "describe-pairs": ["describe-pairs", "smollm2"],
        "judge": ["judge", "--labels", str(tmp_path / "labels.jsonl")],
        "score": ["score", str(tmp_path / "labels.jsonl"), "--vlm", "pictogram", "--dataset", "pictograms"],
    }[command]
    assert f"--out {out} lies below {tmp_path / 'file'}, which is a file" in refused([*line, "--out", str(out)])
