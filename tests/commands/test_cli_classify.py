"""`ex2 classify` from files to results, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ex2.cli import main
from ex2.commands.classify import _labels
from ex2.texts.descriptions import Description, write_descriptions
from ex2.texts.pairs import PairText, PairTexts, write_pairs

NAMES = ("cat", "eagle", "ear of corn", "whale")
TEXTS = {
    "cat": ["A cat with soft fur and long whiskers.", "It has a long tail."],
    "eagle": ["An eagle has a hooked yellow beak.", "It has broad wings."],
    "ear of corn": ["It has rows of yellow kernels under green husks."],
    "whale": ["A whale is huge and grey with a wide tail."],
}


@pytest.fixture
def line(class_folder: Path) -> list[str]:
    return ["classify", "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "lists.json"
    path.parent.mkdir()
    path.write_text(json.dumps(TEXTS))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs" / "pairs.json"
    contrasts = {
        (i, j): (PairText("name", (f"{NAMES[i]} rather than {NAMES[j]}", f"{NAMES[j]} rather than {NAMES[i]}")),)
        for i, j in ((0, 1), (1, 3), (2, 3))
    }
    write_pairs(path, PairTexts(NAMES, contrasts))
    return path


def test_a_file_never_takes_the_name_of_another_system() -> None:
    paths = [Path("template"), Path("fudd_2"), Path("mine.jsonl"), Path("in/random_words.json")]
    assert list(_labels(paths)) == ["./template", "./fudd_2", "mine", "in/random_words.json"]


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv").set_index("system")


def test_all_systems_side_by_side(
    line: list[str], lists: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    records = [
        Description("x", i, name, "", text, "hand", 0, {}) for i, name in enumerate(NAMES) for text in TEXTS[name]
    ]
    write_descriptions(tmp_path / "in" / "records.jsonl", records)
    files = [str(lists), str(tmp_path / "in" / "records.jsonl")]
    options = ["--descriptions", *files, "--pairs", str(pairs), "--sweep", "2,3,all", "--gate", "--out", str(out)]
    main([*line, *options])
    printed = capsys.readouterr().out
    table = results(out)
    fudd = ["fudd_2", "fudd_2_gated", "fudd_3", "fudd_3_gated", "fudd_all", "fudd_all_gated"]
    described = ["lists", "records", "random_words", "name+lists", "name+records"]
    assert list(table.index) == ["class_name", "template", "template_set", *described, *fudd]
    assert table["nll"].notna().tolist() == [True] * 8 + [False] * 6
    assert table["name_weight"].dropna().index.tolist() == ["name+lists", "name+records"]
    assert all(name in printed for name in table.index)
    assert (table["n"] == 12).all()
    assert (table["classes"] == 4).all()
    # The same texts in either format are the same system.
    assert table.loc["lists"].equals(table.loc["records"])
    assert table.loc["template", ["gain_mean", "fixed", "broken"]].tolist() == [0.0] * 3
    assert table.loc["template", ["gain_low", "gain_high"]].isna().all()  # no class differs
    assert table.loc["fudd_2", "coverage"] == pytest.approx(0.5)
    assert table["among_k"].dropna().is_monotonic_increasing
    assert table.loc["fudd_all", "among_k"] == 1.0
    assert table["kept"].notna().sum() == 3
    # There are three images of each class.
    assert table["top1"].tolist() == pytest.approx(table["per_class_mean"].tolist())
    assert ((table["fixed"] - table["broken"]) / 12).tolist() == pytest.approx(
        (table["top1"] - table.loc["template", "top1"]).tolist()
    )

    saved = json.loads((out / "results.json").read_text())
    assert [row["system"] for row in saved["systems"]] == list(table.index)
    assert saved["meta"]["split"] == "heldout"
    assert saved["meta"]["vlm"] == "pictogram"
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")

    predicted = pd.read_parquet(out / "predictions.parquet")
    assert len(predicted) == 12 * len(table)
    assert (predicted["class_name"] == np.array(NAMES, dtype=object)[predicted["class_id"]]).all()
    assert all(
        [NAMES[i] for i in ids] == list(names)
        for ids, names in zip(predicted["predicted_ids"], predicted["predicted_names"], strict=True)
    )
    assert (predicted["predicted_names"].str[0] == predicted["class_name"]).equals(predicted["correct"])
    # An image's folder is its class.
    assert (predicted["image_id"].str.split("/").str[0].str.replace("_", " ") == predicted["class_name"]).all()
    assert predicted.groupby("system")["correct"].mean().to_dict() == pytest.approx(table["top1"].to_dict())
    by_class = pd.read_csv(out / "per_class.csv")
    assert by_class.groupby("system")["top1"].mean().to_dict() == pytest.approx(table["per_class_mean"].to_dict())
    # FuDD names two candidates with scores, and the others without.
    scores = np.stack(predicted.query("system == 'fudd_2'")["scores"].to_list())
    assert np.isfinite(scores[:, :2]).all()
    assert np.isnan(scores[:, 2:]).all()

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    main([*line, *options])  # a folder of results may be written again, and comes out the same
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_alone_with_templates(line: list[str], tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("a photo of a {}\n")
    main([*line, "--templates", str(file), "--split", "reward", "--out", str(tmp_path / "out")])
    table = results(tmp_path / "out")
    assert list(table.index) == ["class_name", "template", "template_set"]  # no words to draw random ones from
    assert table.loc["template_set"].equals(table.loc["template"])
    assert not (tmp_path / "out" / "sweep.png").exists()


def test_follow_up_in_either_spelling(line: list[str], pairs: Path, tmp_path: Path) -> None:
    for number, option in enumerate(("--follow_up", "--follow-up")):
        main([*line, "--pairs", str(pairs), option, "2", "--out", str(tmp_path / str(number))])
    first, second = results(tmp_path / "0"), results(tmp_path / "1")
    assert first.equals(second)
    assert list(first.index) == ["class_name", "template", "template_set", "random_words", "fudd_2"]
    main([*line, "--pairs", str(pairs), "--out", str(tmp_path / "2")])
    assert "fudd_all" in results(tmp_path / "2").index  # ten candidates by default, but there are four classes


def test_names_and_averages_matter(line: list[str], lists: Path, tmp_path: Path) -> None:
    scores = {}
    for options in ((), ("--names", "without"), ("--average", "scores")):
        out = tmp_path / "-".join(("out", *options))
        main([*line, "--descriptions", str(lists), "--out", str(out), *options])
        predicted = pd.read_parquet(out / "predictions.parquet").query("system == 'lists'")
        scores[options] = tuple(np.concatenate(predicted["scores"].to_list()).round(6))
    assert len(set(scores.values())) == 3


def test_the_template_can_stand_in(line: list[str], tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"cat": ["a photo of a cat"]}))
    main([*line, "--descriptions", str(path), "--empty_class", "template", "--out", str(tmp_path / "out")])
    table = results(tmp_path / "out")
    assert table.loc["one", ["fixed", "broken"]].tolist() == [0, 0]


def test_faulty_options_are_refused(
    line: list[str], lists: Path, pairs: Path, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    contrasts = ["--pairs", str(pairs)]
    assert "--follow_up needs --pairs" in refused([*line, "--follow_up", "2"])
    assert "--sweep needs --pairs" in refused([*line, "--sweep", "2,3"])
    assert "--gate needs --pairs" in refused([*line, "--gate"])
    assert "--follow_up: 1 candidates are out of range; the dataset has 4 classes: give 2 to 4" in refused(
        [*line, *contrasts, "--follow_up", "1"]
    )
    assert "--sweep: 5 candidates are out of range" in refused([*line, *contrasts, "--sweep", "2,5,all"])
    assert "--sweep: 'x' is no number of candidates" in refused([*line, *contrasts, "--sweep", "2,x"])
    assert "use --split heldout" in refused([*line, *contrasts, "--gate", "--split", "reward"])
    assert "split 'validation'" in refused([*line, "--split", "validation"])
    assert "no such file" in refused([*line, "--templates", str(tmp_path / "none.txt")])
    assert "names a file twice" in refused([*line, "--descriptions", str(lists), str(lists)])
    assert "is a file: name a folder" in refused([*line, "--out", str(lists)])
    assert "is not empty and holds no classification" in refused([*line, "--out", str(tmp_path / "in")])


def test_files_that_do_not_fit_the_dataset_are_refused(
    line: list[str], pairs: Path, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    path = tmp_path / "lists.json"
    for lists, message in (
        ({name: TEXTS[name] for name in NAMES[:3]}, "1 of 4 classes have no text: whale"),
        ({**TEXTS, "dog": ["It barks."]}, "1 of 5 names are no class of the dataset"),
        ({**TEXTS, "whale": []}, "1 of 4 classes have no text: whale"),
    ):
        path.write_text(json.dumps(lists))
        assert message in refused([*line, "--descriptions", str(path)])
    records = tmp_path / "records.jsonl"
    order = ("eagle", "cat", "ear of corn", "whale")
    write_descriptions(
        records, [Description("x", i, name, "", TEXTS[name][0], "hand", 0, {}) for i, name in enumerate(order)]
    )
    assert "is the class order another?" in refused([*line, "--descriptions", str(records)])

    names = pairs.with_suffix(".classes.json")
    whole = pairs.read_text()
    pairs.write_text(whole.replace('"0_1"', '"0-1"'))
    assert "'0-1'" in refused([*line, "--pairs", str(pairs)])
    pairs.write_text(whole)
    names.write_text(json.dumps(["cat", "eagle", "ear of corn", "dolphin"]))
    assert "'dolphin'" in refused([*line, "--pairs", str(pairs)])
