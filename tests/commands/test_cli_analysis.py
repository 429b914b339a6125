"""`ex2 analyze`, `compare` and `judge` from a finished run to their files, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ex2.cli import main
from ex2.texts.descriptions import Description, read_descriptions, write_descriptions

TEXTS = {
    "cat": ["The cat has soft fur and long whiskers.", "It lives in houses and barns all over the world."],
    "eagle": ["An eagle has a hooked yellow beak and broad wings.", "It nests on high cliffs, and it hunts fish."],
    "ear of corn": ["It has rows of yellow kernels under green husks.", "Corn is ground to flour and eaten."],
    "whale": ["A whale is huge and grey with a wide tail.", "It lives in the cold northern oceans."],
}


@pytest.fixture
def descriptions(class_folder: Path, tmp_path: Path) -> Path:
    """Two hand-written texts about each of four classes, of no run."""
    names = ["cat", "eagle", "ear of corn", "whale"]
    path = tmp_path / "in" / "descriptions.jsonl"
    write_descriptions(
        path,
        [
            Description(
                f"folder:{class_folder}", i, name, "Describe a {}.", text, "hand", 0, {}, extra={"vlm": "pictogram"}
            )
            for i, name in enumerate(names)
            for text in TEXTS[name]
        ],
    )
    return path


def test_from_a_run_to_the_report(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "d.jsonl", tmp_path / "analysis"
    main(["generate", str(trained_run), "--out", str(out), "--batch_size", "16"])
    main(["analyze", str(out), "--out", str(folder)])
    printed = capsys.readouterr().out
    assert f"Report: {folder / 'report.html'}" in printed
    summary = json.loads((folder / "summary.json").read_text())
    assert "\n".join(summary["verdict"]) in printed
    assert summary["descriptions"] == 32
    # The untrained policy's texts are found in the run: two a class, less the blank ones.
    assert 0 < summary["base_descriptions"] <= 8
    assert {
        "aligned_minus_base",
        "aligned_minus_best_of_n",
        "aligned_minus_random_words",
        "aligned_minus_swapped",
    } <= set(summary)
    assert summary["meta"]["training_texts"] == 16
    assert set(summary["monitors"]) >= {"hub_score", "duplicate_rate", "boilerplate_rate", "truncated_share"}
    for name in summary["tables"]:
        whole, text = (
            pd.read_parquet(folder / "tables" / f"{name}.parquet"),
            pd.read_csv(folder / "tables" / f"{name}.csv"),
        )
        assert list(whole.columns) == list(text.columns)
        assert len(whole) == len(text)
    assert len(pd.read_parquet(folder / "tables" / "learning_curve.parquet")) >= 2

    before = (folder / "summary.json").read_bytes()
    main(["analyze", str(out), "--out", str(folder)])
    assert (folder / "summary.json").read_bytes() == before


def test_descriptions_of_no_run_with_and_without_base(descriptions: Path, tmp_path: Path) -> None:
    main(["analyze", str(descriptions), "--out", str(tmp_path / "alone")])
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert alone["verdict"][0].startswith("No statement about preference")
    assert any("no texts of the untrained policy" in warning for warning in alone["warnings"])
    main(["analyze", str(descriptions), "--base", str(descriptions), "--out", str(tmp_path / "same")])
    same = json.loads((tmp_path / "same" / "summary.json").read_text())
    assert same["aligned_minus_base"]["heldout"] == {"mean": 0.0, "low": None, "high": None}  # no class differs
    assert same["verdict"][0].startswith("No statement about preference: 4 classes are too few")


def probe_file(path: Path, *changed: dict[str, str]) -> Path:
    """Three kinds of sentences about three of the four classes, and `changed` after them."""
    rows = [
        {"class_name": name, "kind": kind, "text": text}
        for name, texts in (
            ("cat", ("It has soft fur and long whiskers.", "It lives in houses and barns.", "It hunts mice.")),
            ("eagle", ("It has a hooked yellow beak.", "It nests on high cliffs.", "It hunts hares.")),
            ("whale", ("It is huge and grey.", "It lives in cold oceans.", "It sings long songs.")),
        )
        for kind, text in zip(("visual", "habitat", "use"), texts, strict=True)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in (*rows, *changed)))
    return path


def test_a_probe_of_ones_own(descriptions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = probe_file(tmp_path / "in" / "probe.jsonl"), tmp_path / "out"
    main(["analyze", str(descriptions), "--probe", str(path), "--out", str(out)])
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["probe"]["sentence"].startswith("The policy's texts leave it undecided; asked directly, the VLM ")
    assert summary["probe"]["sentence"] in printed
    assert summary["meta"]["probe"] == str(path)
    table = pd.read_parquet(out / "tables" / "probe.parquet")
    assert table["kind"].tolist() == ["visual", "habitat", "use"]
    assert set(table["classes"]) == {3}
    for kind in table["kind"]:
        assert any(line.startswith(f"{kind}  ") and line.count("[") == 2 for line in printed.splitlines())
    # Other datasets than the embedded one have no probe unless they are given one.
    main(["analyze", str(descriptions), "--out", str(out)])
    assert "asked directly" not in capsys.readouterr().out
    assert "probe" not in json.loads((out / "summary.json").read_text())


def test_pictograms_have_a_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ex2.data import load_images

    names = load_images("pictograms").class_names
    path, out = tmp_path / "d.jsonl", tmp_path / "out"
    write_descriptions(
        path,
        [
            Description(
                "pictograms", names.index(name), name, "Describe a {}.", text, "hand", 0, {}, extra={"vlm": "pictogram"}
            )
            for name, texts in TEXTS.items()
            for text in texts
        ],
    )
    main(["analyze", str(path), "--out", str(out)])
    table = pd.read_parquet(out / "tables" / "probe.parquet")
    assert table["kind"].tolist() == ["visual", "habitat", "use", "kind", "chatter"]
    assert set(table["classes"]) == {54}
    assert set(table["n"]) == {3 * 54}
    # That talk of a photo page fits no picture better than what is true of the thing needs no training to know.
    assert table.set_index("kind").loc["chatter", "framed_centred_high"] < 0
    assert json.loads((out / "summary.json").read_text())["probe"]["sentence"] in capsys.readouterr().out


def test_compare_two_analyses(descriptions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "in" / "spurious.jsonl"
    records = read_descriptions(descriptions)
    write_descriptions(
        other,
        [
            Description(r.dataset, r.class_id, r.class_name, r.question, f"A photo of a {r.class_name}.", r.model, 0, {},
                        extra=r.extra)
            for r in records
        ],
    )  # fmt: skip
    for path, name in ((descriptions, "a"), (other, "b")):
        main(["analyze", str(path), "--out", str(tmp_path / name)])
    capsys.readouterr()
    main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    printed = capsys.readouterr().out
    assert str(tmp_path / "a") in printed  # one VLM in both, so the folders name the studies
    differences = pd.read_parquet(tmp_path / "c" / "differences.parquet").set_index(["measure", "name"])
    spurious = differences.loc[("share_of_clauses", "spurious")]
    assert spurious["mean"] == pytest.approx(-1.0)  # texts of the one are never spurious, of the other always
    assert np.isnan(spurious["p"])  # one run a side
    assert "No difference is called: with one run a side" in printed
    assert spurious["classes"] == 4
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "c" / "comparison.txt").read_text().strip() in printed


def test_judge_against_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [
        ("owl", "It has large round orange eyes.", "visual"),
        ("owl", "It hunts mice at night.", "non_visual"),
        ("camel", "It lives in the deserts of Arabia.", "habitat"),
        ("camel", "A photo of a camel, click to enlarge.", "spurious"),
    ]
    labels.write_text(
        "".join(json.dumps(dict(zip(("class_name", "text", "category"), r, strict=True))) + "\n" for r in rows)
    )
    main(["judge", "--labels", str(labels), "--out", str(tmp_path / "numbers.json")])
    assert "macro-F1" in capsys.readouterr().out
    (numbers,) = json.loads((tmp_path / "numbers.json").read_text()).values()
    assert numbers["n"] == 4
    assert numbers["accuracy"]["mean"] == 1.0


def test_what_analyze_refuses(
    descriptions: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    lines = descriptions.read_text().splitlines()
    out = tmp_path / "out"

    def changed(name: str, *rows: str) -> str:
        path = tmp_path / "in" / name
        path.write_text("".join(f"{row}\n" for row in rows))
        return str(path)

    def record(**changes: object) -> str:
        return json.dumps({**json.loads(lines[0]), **changes})

    def probe(name: str, **changes: str) -> list[str]:
        row = {"class_name": "cat", "kind": "visual", "text": "It has whiskers.", **changes}
        return [good, "--probe", str(probe_file(tmp_path / "in" / name, row))]

    good = str(descriptions)
    (tmp_path / "in" / "probe_cut.jsonl").write_text('{"class_name": "cat",\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.txt").write_text("mine")
    for line, words in [
        (
            [changed("class.jsonl", record(class_name="cot"))],
            ["class.jsonl:1:", "'cot'", "nearest class name is 'cat'"],
        ),
        ([changed("empty.jsonl", lines[0], record(text=" "))], ["empty.jsonl:2:", "text is empty"]),
        ([changed("broken.jsonl", lines[0], lines[1][:40])], ["broken.jsonl:2:", "broken JSON"]),
        ([changed("none.jsonl")], ["none.jsonl:1:", "no descriptions"]),
        ([str(tmp_path / "nowhere.jsonl")], ["no such file"]),
        ([changed("one.jsonl", *lines[:2])], ["about 1 class", "need two"]),
        ([changed("two.jsonl", lines[0], record(dataset="pictograms"))], ["mixes descriptions of several datasets"]),
        ([good, "--dataset", "pictograms"], ["--dataset pictograms", "were made for dataset folder:"]),
        (
            [changed("vlm.jsonl", *(json.dumps({**json.loads(row), "vlm": None}) for row in lines))],
            ["--vlm is needed", "no VLM"],
        ),
        ([good, "--judge", "lokal"], ["judge 'lokal'", "local"]),
        ([good, "--judge", "openai:gpt-x"], ["OPENAI_API_KEY"]),
        ([good, "--run", str(tmp_path)], ["holds no run"]),
        ([good, "--base", str(tmp_path / "nowhere.jsonl")], ["no such file"]),
        ([good, "--seed", "-1"], ["--seed -1"]),
        (
            probe("probe_kind.jsonl", kind="looks"),
            ["probe_kind.jsonl:10:", "kind 'looks' is none of visual, habitat, use, kind, chatter"],
        ),
        (
            probe("probe_class.jsonl", class_name="cot"),
            ["probe_class.jsonl:10:", "class 'cot' is not in the dataset. Did you mean cat?"],
        ),
        (probe("probe_empty.jsonl", text=""), ["probe_empty.jsonl:10:", "text is empty"]),
        (
            probe("probe_named.jsonl", text="Cats have whiskers."),
            ["probe_named.jsonl:10:", "holds the name of its class 'cat'"],
        ),
        ([good, "--probe", str(tmp_path / "in" / "probe_cut.jsonl")], ["probe_cut.jsonl:1:", "broken JSON"]),
        ([good, "--probe", str(tmp_path / "nowhere.jsonl")], ["nowhere.jsonl: no such file"]),
    ]:
        error = refused(["analyze", *line, "--out", str(out)])
        for word in words:
            assert word in error
        assert not out.exists()
    assert "is not empty and holds no analysis" in refused(["analyze", good, "--out", str(tmp_path / "full")])
    assert f"--out {good} is a file" in refused(["analyze", good, "--out", good])


def test_an_unreachable_judge_ends_soon(
    descriptions: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("EX2_CACHE", str(tmp_path / "cache"))
    error = refused(["analyze", str(descriptions), "--judge", "openai:some-model", "--out", str(tmp_path / "out")])
    assert "127.0.0.1:9" in error
    assert not (tmp_path / "out").exists()


def test_what_compare_and_judge_refuse(descriptions: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    main(["analyze", str(descriptions), "--out", str(tmp_path / "a")])
    whole, damaged = str(tmp_path / "a"), tmp_path / "damaged"
    shutil.copytree(whole, tmp_path / "b")
    shutil.copytree(whole, tmp_path / "study" / "analysis")
    damaged.mkdir()
    (damaged / "summary.json").write_text((tmp_path / "a" / "summary.json").read_text()[:100])
    labels = tmp_path / "labels.jsonl"
    for line, words in [
        (["compare", whole], ["two analyses or more, got 1"]),
        (["compare", whole, whole], ["named twice"]),
        (["compare", str(tmp_path / "study"), str(tmp_path / "study" / "analysis")], ["named twice"]),
        (["compare", whole, whole, "--see", "2"], ["--see 2", "0.001"]),
        (["compare", whole, str(tmp_path / "b"), "--by", "colour"], ["--by colour", "no such fact"]),
        (["compare", whole, str(tmp_path)], ["holds no analysis"]),
        (["compare", whole, str(damaged)], ["damaged analysis"]),
        (["judge", "--labels", str(tmp_path / "nowhere.jsonl")], ["no such file"]),
        (["judge", "--labels", str(labels), "--judge", "local", "local"], ["twice"]),
    ]:
        labels.write_text("{}\n")
        for word in words:
            assert word in refused(line)
    for content, words in [
        ("", ["holds no labels"]),
        ("{", [":1: broken JSON"]),
        ('{"class_name": "owl", "text": "", "category": "visual"}', [":1: text is missing or empty"]),
        (
            '\n{"class_name": "owl", "text": "It flies.", "category": "flight"}',
            [":2: category 'flight'", "visual, habitat"],
        ),
    ]:
        labels.write_text(content)
        error = refused(["judge", "--labels", str(labels)])
        for word in words:
            assert word in error


def test_vllm_that_is_not_installed(trained_run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    error = refused(["generate", str(trained_run), "--engine", "vllm", "--out", str(tmp_path / "x.jsonl")])
    assert "--engine vllm needs vLLM" in error
    assert "ex2[vllm]" in error


def test_labels_from_a_study_into_the_next(
    descriptions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    """Analyse, draw clauses, label them all as visual, analyse again; and what is refused on the way."""
    good, study, sheet = str(descriptions), str(tmp_path / "study"), tmp_path / "sheet"
    main(["analyze", good, "--out", study])
    clauses = pd.read_parquet(tmp_path / "study" / "tables" / "clauses.parquet")
    everything = str(clauses[["class_name", "clause"]].drop_duplicates().shape[0])
    main(["label", study, "--out", str(sheet), "--n", everything])
    assert "fill in the column category" in capsys.readouterr().out
    labels = sheet / "labels.csv"
    rows = pd.read_csv(labels).assign(category="visual")
    rows.to_csv(labels, index=False)
    main(["analyze", good, "--labels", str(labels), "--out", study])
    assert f"{everything} of {everything} distinct clauses are labelled by 1 person" in capsys.readouterr().out
    corrected = pd.read_parquet(tmp_path / "study" / "tables" / "corrected.parquet").set_index(["quantity", "category"])
    assert corrected.loc[("share", "visual"), "mean"] == pytest.approx(1)  # all are labelled, and all visual
    assert "distinct clauses are labelled" in (tmp_path / "study" / "report.html").read_text(encoding="utf-8")

    out = ["--out", str(tmp_path / "other")]
    for changes, words in (
        ({"category": "looks"}, ["labels.csv:2:", "category 'looks' is none of"]),
        ({"annotator": "you"}, ["labels.csv:2:", "annotator 'you' is none of me"]),
        ({"clause_id": "x"}, ["labels.csv:2:", "clause 'x' is not in this study's sample"]),
    ):
        wrong = rows.copy()
        for column, value in changes.items():
            wrong.loc[0, column] = value
        wrong.to_csv(labels, index=False)
        line = refused(["analyze", good, "--labels", str(labels), *out])
        for word in words:
            assert word in line
    assert "--precision 0.1 needs labels" in refused(["analyze", good, "--precision", "0.1", *out])
    assert "--precision 2.0 is out of range" in refused(["analyze", good, "--precision", "2", *out])
    assert "--n 0 is out of range" in refused(["label", study, "--out", str(tmp_path / "l"), "--n", "0"])
