"""The `ex2` command on a finished run: generate, score, list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.texts.descriptions import read_descriptions
from ex2.texts.questions import QUESTION_SETS
from tests.kills import killed_once_written


def _generate(policy: Path, out: Path, *options: str) -> None:
    main(["generate", str(policy), "--out", str(out), "--batch_size", "16", *options])


def test_generate_from_a_run(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.jsonl"
    _generate(trained_run, out)
    assert "of 4 classes to" in capsys.readouterr().out
    records = read_descriptions(out, ["cat", "eagle", "ear of corn", "whale"])
    assert len(records) == 32
    assert {record.question for record in records} == set(QUESTION_SETS["short"])
    assert {record.class_id for record in records} == {0, 1, 2, 3}
    for record in records:
        assert set(record.scores) == {"reward_cosine", "heldout_cosine"}
        assert record.model == str(trained_run)
        assert (record.extra["vlm"], record.extra["max_new_tokens"], record.extra["sample"]) == ("pictogram", 8, 0)

    _generate(trained_run, out)
    analysis = out.with_name("analysis")
    said = f"{out} is complete: it holds all 32 descriptions. Next: `ex2 analyze {out} --out {analysis}`.\n"
    assert capsys.readouterr().out.endswith(said)
    _generate(trained_run, out, "--samples", "2")
    assert read_descriptions(out)[:32] == records
    assert len(read_descriptions(out)) == 64


def test_generate_from_an_adapter_a_checkpoint_and_a_plain_model(
    trained_run: Path, tiny_llm: Path, class_folder: Path, tmp_path: Path
) -> None:
    outs = {}
    for name, policy in {
        "run": trained_run,
        "adapter": trained_run / "adapter",
        "last": trained_run / "checkpoint-4",
    }.items():
        _generate(policy, tmp_path / name, "--vlm", "none", "--classes", "cat,whale")
        outs[name] = [record.text for record in read_descriptions(tmp_path / name)]
    assert outs["run"] == outs["adapter"] == outs["last"]
    assert len(outs["run"]) == 16

    line = ["--dataset", f"folder:{class_folder}", "--max_new_tokens", "8", "--classes", "cat", "--split", "reward"]
    _generate(tiny_llm, tmp_path / "plain", *line)
    plain = read_descriptions(tmp_path / "plain")
    assert {record.question for record in plain} == set(QUESTION_SETS["study"])
    assert len(plain) == 25
    assert plain[0].scores == {}
    _generate(tiny_llm, tmp_path / "scored", *line, "--vlm", "pictogram")
    scored = read_descriptions(tmp_path / "scored")
    assert [record.text for record in scored] == [record.text for record in plain]
    assert set(scored[0].scores) == {"reward_cosine"}


def test_generate_from_the_base_of_a_run(
    trained_run: Path, tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control is asked the run's questions in the run's way, and is the model that the run started from."""
    out, plain = tmp_path / "base.jsonl", tmp_path / "plain.jsonl"
    main(["generate", str(trained_run), "--base", "--classes", "cat,whale", "--vlm", "none", "--out", str(out)])
    records = read_descriptions(out)
    assert {record.model for record in records} == {str(tiny_llm)}
    options = ["--dataset", records[0].dataset, "--questions", "short", "--vlm", "none", "--classes", "cat,whale"]
    with pytest.raises(SystemExit) as stop:
        main(["generate", str(tiny_llm), "--base", *options, "--out", str(plain)])
    assert stop.value.code == 2
    assert "has no adapter that could be left out" in capsys.readouterr().err


def test_files_of_another_seed_or_policy_are_refused(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    _generate(trained_run, out, "--vlm", "none", "--classes", "cat")
    before = out.read_bytes()
    same = ["--vlm", "none", "--classes", "cat"]
    for policy, options, words in [
        (trained_run, [*same, "--seed", "1"], "seed 0, not 1"),
        (trained_run, [*same, "--temperature", "0.5"], "temperature 1.0, not 0.5"),
        (trained_run, [*same, "--questions", "study"], "is not asked for"),
        (trained_run, ["--vlm", "none", "--classes", "whale"], "is not asked for"),
        (trained_run, ["--classes", "cat"], "vlm None, not 'pictogram'"),
        (trained_run / "checkpoint-2", same, "model"),
    ]:
        with pytest.raises(SystemExit):
            _generate(policy, out, *options)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: --out {out}")
        assert words in error
    assert out.read_bytes() == before


def test_a_killed_command_goes_on_to_the_same_file(trained_run: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    options = ["--samples", "6", "--batch_size", "4"]
    line = ["generate", str(trained_run), "--out", str(killed), *options]
    killed_once_written(killed, 3_000, lambda: main(line))
    written = len(killed.read_bytes().splitlines())
    assert 0 < written < 192
    killed.write_bytes(killed.read_bytes()[:-25])  # as if the kill had come in the middle of a line
    main(line)
    main(["generate", str(trained_run), "--out", str(whole), *options])
    assert killed.read_bytes() == whole.read_bytes()


def test_score_prints_intervals_and_leaves_its_input_alone(
    trained_run: Path, class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copy = tmp_path / "out.jsonl", tmp_path / "copy.jsonl"
    _generate(trained_run, out)
    generated = read_descriptions(out)
    capsys.readouterr()
    score = ["score", str(out), "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"]
    main([*score, "--split", "heldout", "--out", str(copy)])
    table = capsys.readouterr().out
    assert f"{copy}: 32 descriptions of 4 classes, scored by pictogram" in table
    assert "heldout" in table
    assert "hub score" in table
    assert "reward" not in table
    mean = sum(record.scores["heldout_cosine"] for record in generated) / 32
    assert f"{mean:.4f}" in table
    for before, after in zip(generated, read_descriptions(copy), strict=True):
        assert after.scores["heldout_cosine"] == pytest.approx(before.scores["heldout_cosine"], abs=1e-5)
        assert (after.text, after.extra) == (before.text, before.extra)
    before_scoring = out.read_bytes()
    main(score)
    assert out.read_bytes() == before_scoring
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_score_binds_texts_to_class_names(
    tmp_path: Path, class_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.jsonl"
    record = {
        "dataset": "mine", "class_id": 0, "class_name": "cat", "question": "", "text": "a small animal with whiskers",
        "model": "me", "seed": 0, "scores": {"mine": 1.0},
    }  # fmt: skip
    path.write_text(json.dumps(record) + "\n")
    score = ["score", str(path), "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"]
    main([*score, "--out", str(path)])
    assert "needs 2 classes" in capsys.readouterr().out
    (scored,) = read_descriptions(path)
    assert set(scored.scores) == {"mine", "reward_cosine", "heldout_cosine"}
    assert scored.extra == {"vlm": "pictogram", "scored_on": f"folder:{class_folder}"}
    path.write_text(json.dumps(record | {"class_name": "whale"}) + "\n")
    with pytest.raises(SystemExit):
        main(score)
    assert "d.jsonl:1: class_id 0: expected class name 'cat', found 'whale'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("vlms", ["pictogram", "hf:ID_OR_DIR", "open_clip:MODEL/PRETRAINED"]),
        ("datasets", ["pictograms", "pictogram-scenes", "folder:DIR"]),
        ("rewards", ["cosine", "margin", "no_repetition", "package.module:function"]),
        ("questions", ["short (8)", "study (25)", "Write a museum label for an image of a {}.", "FILE"]),
    ],
)
def test_list(what: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", what])
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed


@pytest.mark.parametrize("command", ["generate", "score", "list"])
def test_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"ex2 {command} " in printed.partition("Example")[2]


def test_ctrl_c_leaves_quietly(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ex2.policy.description_file.write_answers", interrupt)
    with pytest.raises(SystemExit) as stop:
        _generate(trained_run, tmp_path / "out.jsonl", "--vlm", "none")
    assert stop.value.code == 130
    assert capsys.readouterr().err.endswith("Interrupted.\n")


def test_texts_that_stay_blank_are_counted(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sample(plan: object, number: int, positions: range, generator: object) -> list[str]:
        return ["", *["x"] * (len(positions) - 1)]

    monkeypatch.setattr("ex2.policy.description_file._sample", sample)
    _generate(trained_run, tmp_path / "out.jsonl", "--vlm", "none", "--classes", "cat")
    assert "which now holds 7; 1 were left out, as all attempts at them were blank." in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    code = "import sys; from ex2.cli import main; main(['list', 'configs'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""
