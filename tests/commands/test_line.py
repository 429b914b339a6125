"""The command line as people type it, and slips that are answered before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.commands.line import underscored, with_known_names

Refused = Callable[[list[str]], str]


def test_without_a_command_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out.startswith("usage: ex2 [-h] [--version] COMMAND ...")


def test_dashes_are_underscores() -> None:
    line = ["score", "a-b.jsonl", "--images-per-class", "3", "--split-seed=1-2", "--", "--x-y"]
    assert underscored(line) == ["score", "a-b.jsonl", "--images_per_class", "3", "--split_seed=1-2", "--", "--x-y"]


def test_names_of_other_commands_are_understood_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert with_known_names(["--output_dir=x", "--seed", "1"], {"out", "seed"}) == ["--out=x", "--seed", "1"]
    assert capsys.readouterr().err == "note: --output_dir is --out here.\n"
    assert with_known_names(["--output_dir", "x"], {"output_dir", "out"}) == ["--output_dir", "x"]
    assert with_known_names(["--other", "x"], {"out"}) == ["--other", "x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["anaylze", "x"], "COMMAND anaylze is unknown. Did you mean analyze? There are "),
        (["list", "dataset"], "dataset is unknown. Did you mean datasets?"),
        (
            ["classify", "--vlm", "pictogram", "--dataset", "pictograms", "--templats", "x"],
            "--templats x. Did you mean --templates?",
        ),
        (
            ["score", "none.jsonl", "--vlm", "pictogram", "--dataset", "pictograms"],
            "none.jsonl: no such file; `ex2 generate`",
        ),
        (["classify", "--vlm", "pictogrm", "--dataset", "pictograms"], "did you mean `pictogram`?"),
        (["classify", "--vlm", "pictogram", "--dataset", "./none"], "dataset: ./none does not exist."),
        (["classify", "--vlm", "pictogram", "--dataset", "folder:none"], "dataset 'folder:none': none does not exist."),
        (["classify", "--vlm", "pictogram", "--dataset", "pictogrms"], "Did you mean 'pictograms'?"),
        (
            ["classify", "--vlm", "pictogram", "--dataset", "pictograms", "--pairs", "none.json"],
            "none.json: no such file; `ex2 describe",
        ),
        (["generate", "smollm2", "--out", "d", "--chat_template_kwargs", "{x"], "'{x' is broken JSON"),
        (["generate", "./none", "--out", "d"], "./none: no such folder; `ex2 train` and `ex2 study` make run folders"),
        (["export", "runs/none", "--out", "d"], "runs/none: no such folder; `ex2 train`"),
        (["compare", "a", "b"], "a: no such folder; `ex2 analyze`"),
        (["study", "quickstrat"], "--config quickstrat does not exist. Did you mean quickstart?"),
        (["train", "quickstart", "--dataset", "folder:none"], "dataset 'folder:none': none does not exist."),
        (
            ["train", "quickstart", "--learning-rat", "1e-3"],
            "Unknown option learning_rat on the command line. Did you mean learning_rate?",
        ),
        (["study", "--vlmm", "pictogram"], "Unknown option vlmm on the command line. Did you mean vlm?"),
        (["train", "quickstart", "--learning_rate", "fast"], "learning_rate=fast must be a number."),
        (["generate", "smollm2", "--out", "d", "--class-names", "n.txt"], "--class_names needs --dataset"),
    ],
)
def test_slips_are_one_line_with_what_is_near(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(line)
    assert not list(tmp_path.iterdir())


def test_slips_are_answered_before_torch_is_imported(tmp_path: Path) -> None:
    lines = [
        ["anaylze"],
        ["score", "none.jsonl", "--vlm", "pictogram", "--dataset", "pictograms"],
        ["classify", "--vlm", "pictogrm", "--dataset", "pictograms"],
        ["classify", "--vlm", "pictogram", "--dataset", "folder:none"],
        ["generate", "smollm2", "--out", "d", "--dataset", "./none"],
        ["generate", "./none", "--out", "d"],
        ["export", "none", "--out", "d"],
        ["view", "none"],
        ["demo", "none"],
        ["compare", "none", "nothing"],
        ["study", "quickstrat"],
        ["study", "--vlm", "pictogrm"],
        ["train", "quickstart", "--dataset=folder:none"],
        ["train", "--config", "none.yaml", "--vlm", "pictogram"],
        ["train", "quickstart", "--learning-rat", "1e-3"],
        ["train", "quickstart", "--learning_rate", "fast"],
        ["train", "quickstart", "--algorithm", "grpo", "--gamma", "1"],
        ["train", "slip.yaml"],
        ["train", "far.yaml"],
        ["train", "nowhere.yaml"],
        ["train", "quickstart", "--questions", "shrot"],
        ["train", "quickstart", "--reward_funcs", "cosin"],
        ["train", "quickstart", "--reading", "namless"],
        ["train", "quickstart", "--prompt_format", "chta"],
        ["train", "quickstart", "--model_name_or_path", "./none"],
        ["train", "quickstart", "--class_names", "none.txt", "--dataset", "folder:."],
        ["train", "quickstart", "--vlm", "hf:./none"],
        ["train", "quickstart", "--vlm", "open_clip:local-dir:none"],
        ["train", "quickstart", "--dataset", "csv:none.csv"],
        ["train", "quickstart", "--dataset", "hf:./none?split=train"],
        ["analyze", "slip.yaml", "--out", "d", "--judge", "loca"],
        ["analyze", "slip.yaml", "--out", "d", "--labels", "none.csv"],
        ["classify", "--vlm", "pictogram", "--dataset", "pictograms", "--aliases", "none.txt"],
        ["generate", "smollm2", "--out", "d", "--dataset", "pictograms", "--questions", "none.txt"],
        ["generate", "smollm2", "--out", "d", "--dataset", "pictograms", "--base_model", "./none"],
        ["study", "--judge", "loca"],
        ["study", "--vlmm", "pictogram"],
        ["study", "quickstart", "--max_steps", "-5"],
    ]
    (tmp_path / "slip.yaml").write_text("learning_rat: 1\n")
    (tmp_path / "far.yaml").write_text("temperature: -1\n")
    (tmp_path / "nowhere.yaml").write_text("dataset: folder:none\n")
    code = f"""
import sys
from ex2.cli import main
for line in {lines!r}:
    try:
        main(line)
    except SystemExit as stop:
        assert stop.code == 2
print({{'torch', 'transformers', 'trl', 'open_clip'}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "set()"
    assert len(done.stderr.splitlines()) == len(lines)


def test_a_run_folder_stands_for_its_descriptions(refused: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path} holds no descriptions.jsonl: run `ex2 generate {tmp_path} --out " in refused(
        ["analyze", str(tmp_path)]
    )
    (tmp_path / "aligned.jsonl").touch()
    assert "aligned.jsonl:1: the file holds no descriptions" in refused(["analyze", str(tmp_path)])
    assert "--out is needed" in refused(["analyze", str(tmp_path / "aligned.jsonl")])
