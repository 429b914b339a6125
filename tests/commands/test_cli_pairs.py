"""Training on pairs, `ex2 describe-pairs` and `ex2 pair-accuracy`, with a tiny policy and real pictograms."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.launch import main as train
from ex2.run.folder import base_descriptions, read_jsonl
from ex2.texts.descriptions import read_descriptions
from ex2.texts.pairs import read_pairs
from ex2.texts.questions import PAIR_QUESTIONS
from tests.kills import killed_once_written

NAMES = ("cat", "eagle", "ear of corn", "whale")
PAIRS = {"pairs": 3, "questions": "pairs", "reward_funcs": ["pair_margin"], "reward_weights": None}


@pytest.fixture(scope="session")
def pair_run(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished PPO run on the three most confused of six pairs; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    train("ppo", arguments(folder, **PAIRS, reward_normalization="zscore", best_of_n=2, eval_samples=3))
    return folder


def test_a_run_on_pairs_keeps_and_reports_pairs(pair_run: Path) -> None:
    environment = json.loads((pair_run / "environment.json").read_text())
    confused = {tuple(pair) for pair in environment["pairs"]}
    assert len(confused) == 3

    rows = read_jsonl(pair_run / "samples.jsonl")
    assert len(rows) == 16
    for row in rows:
        assert set(row["scores"]) == {"pair_margin", "heldout_cosine"}
        assert tuple(sorted((row["class_name"], row["other_name"]))) in confused
        assert (NAMES[row["class_id"]], NAMES[row["other_id"]]) == (row["class_name"], row["other_name"])
        assert row["question"] in PAIR_QUESTIONS.values()
    metrics = [row for row in read_jsonl(pair_run / "metrics.jsonl") if "monitors/hub_score" in row]
    assert all({"monitors/reward_pair_margin", "monitors/heldout_pair_margin"} <= set(row) for row in metrics)

    base = read_jsonl(pair_run / "base_samples.jsonl")
    assert len(base) == 3 * 6  # for each ordered pair as many as the aligned policy has, though N of best-of-N is 2
    assert base_descriptions(pair_run, "d", NAMES) == []  # they are not about single classes

    summary = json.loads((pair_run / "pair_accuracy.json").read_text())
    assert list(summary["systems"]) == ["class_name", "template", "base", "best_of_n", "aligned"]
    # Three sentences about each class of three pairs, of each policy.
    assert [system["sentences"] for system in summary["systems"].values()] == [6, 6, 18, 18, 18]
    assert {tuple(pair["classes"]) for pair in summary["pairs"]} == confused
    assert summary["meta"]["best_of_n"] == 3
    card = (pair_run / "README.md").read_text()
    assert "aligned - base" in card
    assert "    ex2 describe-pairs . --out pairs.json" in card
    assert not (pair_run / "before_after.json").exists()


def test_zscores_of_pairs_are_relative_to_the_untrained_texts_of_the_same_pair(pair_run: Path) -> None:
    """Before anything is learnt the policy is the untrained one: rewards are scattered around 0, and not near 100."""
    scores = [row["scores"]["pair_margin"] for row in read_jsonl(pair_run / "samples.jsonl")[:8]]
    assert abs(sum(scores) / 8) < 3
    assert max(map(abs, scores)) > 0.01


def test_a_resumed_run_on_pairs_ends_in_the_same_weights(
    arguments: Callable[..., list[str]], pair_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(pair_run, folder)
    for name in ("checkpoint-4", "adapter"):
        shutil.rmtree(folder / name)
    again = {"reward_normalization": "zscore", "best_of_n": 2, "eval_samples": 3, "resume_from_checkpoint": "true"}
    train("ppo", arguments(folder, **PAIRS, **again))
    name = Path("adapter", "adapter_model.safetensors")
    assert (folder / name).read_bytes() == (pair_run / name).read_bytes()
    assert (folder / "samples.jsonl").read_text() == (pair_run / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"reward_funcs": ["pair_margin"], "reward_weights": None},
            "reward_funcs=pair_margin compares the two classes",
        ),
        ({**PAIRS, "pairs": 0}, "pairs=0 is out of range: it must be at least 1"),
        ({**PAIRS, "pairs": 7}, "pairs=7 is more than there are: 4 classes make 6 pairs"),
        ({**PAIRS, "questions": "short"}, "'Describe a {}.' needs exactly one {other}"),
        (
            {"questions": "pairs"},
            "is about two classes: choose another set, train with pairs=N, or use `ex2 describe-pairs`",
        ),
        ({**PAIRS, "pairs": 1, "steps_per_generation": 20}, "there are only 12 (questions x ordered pairs)"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_options_that_do_not_fit(
    dry: bool,
    options: dict[str, object],
    words: str,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        train("ppo", arguments(tmp_path / "run", dry_run=dry, **options))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_dry_run_counts_ordered_pairs(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("ppo", arguments(tmp_path / "run", dry_run=True, **PAIRS))
    assert "36  = 6 ordered pairs x 6 templates" in capsys.readouterr().out


def _describe(policy: Path, out: Path, *options: str) -> None:
    main(["describe-pairs", str(policy), "--out", str(out), "--batch_size", "16", *options])


def test_describe_pairs_from_a_run(pair_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "aligned.json"
    _describe(pair_run, out)
    printed = capsys.readouterr().out
    assert re.search(
        rf"{out}: 36 sentences about 3 of the 3 pairs that pictogram confuses most. "
        rf"Next: `ex2 classify --vlm pictogram --dataset folder:\S+ --pairs {out}`.\n$", printed
    )  # fmt: skip
    said = re.search(
        r"Confused most, with the share of their images that are nearer to the other's name: (.*)\.\n", printed
    )
    assert said is not None
    pairs = json.loads((pair_run / "environment.json").read_text())["pairs"]
    assert [part.rpartition(" (")[0] for part in said[1].split(", ")] == [" / ".join(pair) for pair in pairs]
    assert "aligned.json - template" in printed
    found = read_pairs(out, NAMES)
    assert [text.attribute for text in next(iter(found.pairs.values()))] == list(PAIR_QUESTIONS)
    answers = read_descriptions(out.with_suffix(".jsonl"), NAMES)
    texts = {(a.class_id, a.extra["other_id"], a.question): a.text for a in answers}
    for (i, j), pair in found.pairs.items():
        for question, contrast in zip(PAIR_QUESTIONS.values(), pair, strict=True):
            assert contrast.texts == (texts[i, j, question], texts[j, i, question])

    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    _describe(pair_run, out)  # complete: nothing is sampled, the same is written
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    base = tmp_path / "base.json"
    _describe(pair_run, base, "--base")
    assert read_pairs(base, NAMES).pairs.keys() == found.pairs.keys()
    assert read_pairs(base, NAMES) != found
    capsys.readouterr()
    dataset = answers[0].dataset
    main(["pair-accuracy", str(base), str(out), "--vlm", "pictogram", "--dataset", dataset])
    table = capsys.readouterr().out
    assert f"{out} - {base}" in table
    assert f"{out} - template" in table


def test_describe_pairs_with_a_plain_model_and_more_pairs(
    tiny_llm: Path, class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plain.json"
    line = ["--dataset", f"folder:{class_folder}", "--vlm", "pictogram", "--max_new_tokens", "6"]
    _describe(tiny_llm, out, *line, "--most", "2", "--samples", "2")
    two = read_pairs(out, NAMES)
    assert [len(texts) for texts in two.pairs.values()] == [12, 12]
    _describe(tiny_llm, out, *line, "--most", "4", "--samples", "2")
    four = read_pairs(out, NAMES)
    assert len(four.pairs) == 4
    assert {pair: four.pairs[pair] for pair in two.pairs} == dict(two.pairs)

    questions = tmp_path / "mine.txt"
    questions.write_text("How old does a {} get, unlike a {other}?\n")
    _describe(tiny_llm, tmp_path / "mine.json", *line, "--most", "1", "--questions", str(questions))
    ((text,),) = read_pairs(tmp_path / "mine.json", NAMES).pairs.values()
    assert text.attribute == "How old does a {} get, unlike a {other}?"
    assert "needs 2 pairs" in capsys.readouterr().out


def test_a_killed_command_goes_on_to_the_same_files(pair_run: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.json", tmp_path / "killed.json"
    options = ["--samples", "5", "--batch_size", "4"]
    line = ["describe-pairs", str(pair_run), "--out", str(killed), *options]
    answers = killed.with_suffix(".jsonl")
    killed_once_written(answers, 3_000, lambda: main(line))
    assert 0 < len(answers.read_bytes().splitlines()) < 5 * 36
    assert not killed.exists()
    answers.write_bytes(answers.read_bytes()[:-25])  # as if the kill had come in the middle of a line
    main(line)
    main(["describe-pairs", str(pair_run), "--out", str(whole), *options])
    for suffix in (".json", ".jsonl", ".classes.json"):
        assert killed.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--most", "7"], "--most 7 is more than there are: 4 classes make 6 pairs"),
        (["--most", "0"], "--most 0 is out of range: it must be at least 1"),
        (["--questions", "short"], "'Describe a {}.' needs exactly one {other}"),
        (["--samples", "0"], "--samples 0 is out of range"),
        (["--seed", "-1"], "--seed -1 is out of range"),
    ],
)
def test_describe_pairs_refuses(
    pair_run: Path, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        _describe(pair_run, tmp_path / "out.json", *options)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_refusals(
    pair_run: Path, tiny_llm: Path, class_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(line: list[str], words: str) -> None:
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        assert words in capsys.readouterr().err

    out = tmp_path / "out.json"
    refused(["describe-pairs", str(tiny_llm), "--out", str(out)], "--dataset is needed")
    dataset = ["--dataset", f"folder:{class_folder}"]
    refused(["describe-pairs", str(tiny_llm), "--out", str(out), *dataset], "--vlm is needed")
    refused(["describe-pairs", str(tiny_llm), "--out", str(out), "--base"], "has no adapter that could be left out")
    refused(["describe-pairs", str(pair_run), "--out", str(tmp_path / "out.jsonl")], "must end in .json")
    out.write_text("{}")
    refused(["describe-pairs", str(pair_run), "--out", str(out)], "exists, but")
    assert out.read_text() == "{}"
    refused(["generate", str(pair_run), "--out", str(tmp_path / "d.jsonl")], "is about two classes: choose another set")
    out.with_suffix(".classes.json").write_text(json.dumps(NAMES))
    accuracy = ["pair-accuracy", "--vlm", "pictogram", *dataset]
    refused([*accuracy, str(out)], "no pair of classes that all files have sentences about")
    refused([*accuracy, str(out), str(out)], "A file is named twice")


def test_generate_describes_single_classes_with_a_run_on_pairs(pair_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.jsonl"
    main(["generate", str(pair_run), "--out", str(out), "--questions", "short", "--classes", "cat"])
    assert len(read_descriptions(out, NAMES)) == 8


def test_files_of_other_pairs_are_not_mixed(pair_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    _describe(pair_run, out, "--most", "3")
    with pytest.raises(SystemExit):
        _describe(pair_run, out, "--most", "2")
    assert " against " in capsys.readouterr().err.strip().splitlines()[-1]
