"""`ex2 export` on a finished run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ex2.cli import main
from ex2.export import read_bundle, write_bundle
from ex2.export.generator import DescriptionGenerator
from ex2.texts.descriptions import read_descriptions, write_descriptions
from ex2.texts.pairs import PairText, PairTexts, write_pairs
from tests.hub import Hub, serving

CLASSES = ("cat", "eagle", "ear of corn", "whale")


@pytest.fixture(scope="module")
def run(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with descriptions; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "birds"
    shutil.copytree(trained_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    main(["generate", str(folder), "--out", str(folder / "descriptions.jsonl"), "--batch_size", "16"])
    return folder


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "birds"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs an export that must fail with status 2, one line and nothing written; returns the line."""

    def export(run: Path, *options: str, out: Path = tmp_path / "out") -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["export", str(run), "--out", str(out), *options])
        assert stop.value.code == 2
        assert sorted(tmp_path.rglob("*")) == before
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: ")
        return message

    return export


def test_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = PairTexts(CLASSES, {(1, 3): (PairText("place", ("An eagle flies.", "A whale swims.")),)})
    write_pairs(tmp_path / "mine.json", pairs)
    out = tmp_path / "bundles" / "birds"
    main(["export", str(run), "--out", str(out), "--merge", "--pairs", str(tmp_path / "mine.json")])
    printed = capsys.readouterr().out
    assert "Merged: logits differ from those of base + adapter by at most " in printed
    assert (
        f"Wrote the adapter, the merged model, 32 descriptions of 4 classes, 1 pairs, a classifier (384 x 4) to {out}. "
        f"Next: `ex2 demo {out}`, a page to try it.\n" in printed
    )
    assert "as its base model: elsewhere, say where that is (base_model=...)" in printed

    bundle = read_bundle(out)
    assert bundle.class_names == CLASSES
    assert bundle.pairs == pairs
    sampled = read_descriptions(run / "descriptions.jsonl")
    assert [record.text for record in bundle.records] == [record.text for record in sampled]
    assert {record.model for record in bundle.records} == {"birds"}
    facts = bundle.facts
    assert facts["adapter"]["fingerprint"] == sampled[0].extra["policy_fingerprint"]
    assert facts["vlm"] == {
        "name": "pictogram",
        "fingerprint": json.loads((run / "environment.json").read_text())["vlm_fingerprint"],
    }
    assert facts["classifier"] == {"vlm": "pictogram", "vlm_fingerprint": facts["vlm"]["fingerprint"]}
    assert facts["training"]["reward_funcs"] == ["cosine", "no_repetition"]
    assert facts["training"]["reward_weights"] == [1.0, 0.5]
    assert facts["trained_with"]["trl"]
    report = json.loads((run / "before_after.json").read_text())
    assert facts["metrics"]["before_after"]["aligned"] == report["aligned"]
    assert facts["metrics"]["last"]["step"] == 4
    assert "monitors/heldout_cosine" in facts["metrics"]["last"]
    assert 0 <= facts["merged"]["max_logit_difference"] <= facts["merged"]["tolerance"] == 1e-4

    write_bundle(bundle, tmp_path / "again")
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert f"| aligned | {report['aligned']['heldout']['mean']:.4f} [" in card


def test_a_bundle_tells_neither_where_nor_when(run: Path, tmp_path: Path) -> None:
    outs = []
    for place in ("here", "there"):
        copy = tmp_path / place / "birds"
        shutil.copytree(run, copy)
        main(["export", str(copy), "--out", str(tmp_path / place / "out"), "--vlm", "none"])
        outs.append({p.name: p.read_bytes() for p in (tmp_path / place / "out").rglob("*") if p.is_file()})
    assert outs[0] == outs[1]
    for name, data in outs[0].items():
        # PEFT reads the base model's place from the adapter's own configuration.
        assert name in ("adapter_config.json", "adapter_model.safetensors") or b"/tmp" not in data, name
    dataset = json.loads(outs[0]["descriptions_by_dataset.json"])
    assert list(dataset)[0] == Path(yaml.safe_load((run / "config.yaml").read_text())["dataset"]).name


def test_a_run_whose_name_is_no_utf_8(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    """As a disk with names in latin-1 has it: a manifest cannot hold the byte."""
    odd = shutil.copytree(run, tmp_path / "v\udcf6gel")
    main(["export", str(odd), "--out", str(tmp_path / "out")])
    bundle = read_bundle(tmp_path / "out")
    assert bundle.facts["name"] == "v[U+DCF6]gel"
    assert len(bundle.records) == len(read_descriptions(run / "descriptions.jsonl"))
    assert "[U+DCFC]ndel: tokenizers are saved" in refused(run, "--merge", out=tmp_path / "b\udcfcndel")


def test_the_bundle_writes_what_the_run_writes(run: Path, tmp_path: Path) -> None:
    main(["export", str(run), "--out", str(tmp_path / "out"), "--no_descriptions", "--dataset_name", "four"])
    assert not list((tmp_path / "out").glob("descriptions*"))
    assert read_bundle(tmp_path / "out").facts["dataset"] == {"name": "four", "classes": 4, "hub_id": None}
    from ex2.policy.asks import Ask
    from ex2.policy.source import load_generator

    asks = [Ask(0, "cat", "Describe a {}.")]
    there = DescriptionGenerator.from_pretrained(tmp_path / "out").generator
    here, _ = load_generator(str(run))
    assert list(there.sample(asks, seed=3)) == list(here.sample(asks, seed=3))


def test_a_bundle_is_replaced_on_demand(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    export = ["export", str(run), "--out", str(tmp_path / "out"), "--no_descriptions"]
    main(export)
    assert refused(run).endswith("already holds a bundle: choose another folder, or replace it (--overwrite).")
    main([*export[:-1], "--vlm", "none", "--overwrite"])
    assert read_bundle(tmp_path / "out").records


def test_a_folder_of_other_things_is_refused(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert refused(run, "--overwrite").endswith("is not empty and holds no bundle: choose another folder.")


def test_an_unfinished_run_is_refused(own_run: Path, refused: Callable[..., str]) -> None:
    (own_run / "README.md").unlink()
    assert "is a run that has not finished: resume it (--resume_from_checkpoint true)" in refused(own_run)
    (own_run / "config.yaml").unlink()
    assert "is no run folder: it holds no config.yaml" in refused(own_run)


def test_descriptions_must_be_there_and_be_the_runs(own_run: Path, refused: Callable[..., str]) -> None:
    path = own_run / "descriptions.jsonl"
    records = read_descriptions(path)
    path.unlink()
    assert f"{path} is no file: write one with `ex2 generate {own_run} --out {path}`, or" in refused(own_run)

    write_descriptions(path, [record for record in records if record.class_name != "eagle"])
    assert "no description of eagle (class 1): add some" in refused(own_run)
    write_descriptions(path, [record for record in records if record.class_name == "cat"])
    assert "no description of eagle (class 1) and 2 more classes: add some" in refused(own_run)

    text = "".join(record.to_json() + "\n" for record in records)
    path.write_text(text.replace('"eagle"', '"owl"'))
    assert "class_id 1: expected class name 'eagle', found 'owl'" in refused(own_run)
    path.write_text(text.replace('"class_id": 1', '"class_id": 0'))
    assert "class_id 0: expected class name 'cat', found 'eagle'; 'eagle' is class 1" in refused(own_run)
    path.write_text(text.replace('"class_id": 1', '"class_id": 9'))
    assert "class_id 9 ('eagle') is out of range: the dataset has 4 classes" in refused(own_run)

    path.write_text(text.replace(records[0].extra["policy_fingerprint"], "0" * 16))
    assert "not the adapter that" in refused(own_run)
    assert "exclude each other" in refused(own_run, "--no_descriptions", "--descriptions", str(path))


def test_another_dataset_or_pairs_of_other_classes_are_refused(
    run: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert "--dataset pictograms has 54 classes, the run was trained on 4" in refused(run, "--dataset", "pictograms")
    write_pairs(tmp_path / "pairs.json", PairTexts(("cat", "dog"), {(0, 1): (PairText("x", ("a", "b")),)}))
    assert "1 of 2 names are" in refused(run, "--pairs", str(tmp_path / "pairs.json"))


def test_a_merge_that_loses_too_much_is_refused(run: Path, refused: Callable[..., str]) -> None:
    message = refused(run, "--no_descriptions", "--merge", "--merge_dtype", "bfloat16")
    assert "--merge: a logit of the merged model differs by" in message


# ---------------------------------------------------------------- hub


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine."""
    with serving(monkeypatch, str(tmp_path_factory.mktemp("fetched"))) as found:
        yield found


def test_a_bundle_is_pushed_and_used_from_the_hub(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "export",
        str(run),
        "--out",
        str(tmp_path / "out"),
        "--overwrite",
        "--push-to-hub",
        "me/birds",
        "--vlm",
        "none",
    ]
    main(line)
    assert re.search(r"Pushed to http://127\.0\.0\.1:\d+/me/birds", capsys.readouterr().out)
    here = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert hub.repositories == {"models/me/birds": {name: path.read_bytes() for name, path in here.items()}}
    generator = DescriptionGenerator.from_pretrained("me/birds")
    assert generator.describe(["owl"], n=2) == DescriptionGenerator.from_pretrained(tmp_path / "out").describe(
        ["owl"], n=2
    )
    main([*line, "--no_descriptions"])  # what is no part of the bundle any more goes
    assert "descriptions.jsonl" in here
    assert set(hub.repositories["models/me/birds"]) == {name for name in here if not name.startswith("descriptions")}
    assert hub.private == set()


def test_descriptions_are_pushed_as_a_data_set_that_the_viewer_shows(
    run: Path, hub: Hub, tmp_path: Path, refused: Callable[..., str]
) -> None:
    import pyarrow.parquet

    line = ["export", str(run), "--out", str(tmp_path / "bundle"), "--vlm", "none", "--dataset_name", "four"]
    main([*line, "--push_to_hub", "me/birds", "--push_descriptions", "me/birds-texts", "--private"])
    assert hub.private == {"models/me/birds", "datasets/me/birds-texts"}
    files = hub.repositories["datasets/me/birds-texts"]
    assert set(files) == {"README.md", "descriptions.parquet"}
    (tmp_path / "table").write_bytes(files["descriptions.parquet"])
    rows = pyarrow.parquet.read_table(tmp_path / "table").to_pylist()
    assert [row["text"] for row in rows] == [r.text for r in read_bundle(tmp_path / "bundle").records]
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"] == [{"config_name": "default", "data_files": "descriptions.parquet"}]
    assert front["language"] == "en"
    assert "32 descriptions of the 4 classes of four" in card
    assert "nothing to upload" in refused(run, "--no_descriptions", "--push_descriptions", "me/x")


def test_a_repository_of_other_things_is_left_alone(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"model.safetensors": b"weights", "config.json": b"{}", ".gitattributes": b""}
    hub.repositories["models/me/llm"] = dict(other)
    with pytest.raises(SystemExit):
        main(["export", str(run), "--out", str(tmp_path / "out"), "--no_descriptions", "--push_to_hub", "me/llm"])
    assert "--push_to_hub me/llm holds other files (config.json): name another repository" in capsys.readouterr().err
    assert hub.repositories["models/me/llm"] == other


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("me/birds", "'me/birds' could not be written on the hub: check the name, the connection and your token"),
        ("a/b/c", "'a/b/c' is no name of a hub repository"),
    ],
)
def test_without_a_hub_the_bundle_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run), "--out", str(tmp_path / "out"), "--no_descriptions", "--push_to_hub", name])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert error.endswith(f"{tmp_path / 'out'} is written.")
    read_bundle(tmp_path / "out")


def test_help_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "ex2 export runs/quickstart --out" in capsys.readouterr().out.partition("Example")[2]
