"""What a file names, which others may have written, is fetched from the network only where the user asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.cli import main
from ex2.data.specs import source_of_dataset
from ex2.vlm.specs import source_of_vlm

Refused = Callable[[list[str]], str]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Nothing may ask a hub before the user is asked; what is asked later is recorded. The cache is an empty folder."""
    asked: list[str] = []

    def ask(self: object, name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", ask)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", ask)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


def described(path: Path, dataset: str, vlm: str) -> str:
    record = {
        "dataset": dataset, "class_id": 0, "class_name": "cat", "question": "q", "text": "It purrs.", "model": "m", "seed": 0,
        "scores": {}, "vlm": vlm,
    }  # fmt: skip
    path.write_text(json.dumps(record) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("dataset", "vlm", "named"),
    [
        ("hf:stranger/set?split=a", "pictogram", "the hub's dataset stranger/set (--dataset)"),
        ("pictograms", "hf:stranger/model", "the hub's model stranger/model (--vlm)"),
        ("pictograms", "open_clip:hf-hub:stranger/model", "the hub's model stranger/model (--vlm)"),
        ("pictograms", "open_clip:ViT-B-32/openai", "the hub's model timm/vit_base_patch32_clip_224.openai (--vlm)"),
    ],
)
def test_analyze_asks(
    dataset: str, vlm: str, named: str, tmp_path: Path, refused: Refused, no_network: list[str]
) -> None:
    file = described(tmp_path / "d.jsonl", dataset, vlm)
    line = ["analyze", file, "--out", str(tmp_path / "out")]
    assert refused(line) == (
        f"error: {file} names what this machine does not have: {named}. Name it yourself, or let it be fetched (--fetch true)."
    )
    assert not no_network
    for allowed in (["--fetch", "true"], ["--dataset", dataset, "--vlm", vlm]):
        assert "does not have" not in refused([*line, *allowed])


def test_what_was_fetched_before_is_taken(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("models--a--vlm", "datasets--a--set"):
        (tmp_path / "hub" / folder).mkdir(parents=True)
    assert source_of_vlm("hf:a/vlm") is source_of_dataset("hf:a/set?label=x") is None
    assert source_of_vlm("hf:b/vlm") == "the hub's model b/vlm"
    assert source_of_dataset("hf:b/set") == "the hub's dataset b/set"
    assert source_of_vlm("open_clip:hf-hub:a/vlm") is None


def test_what_lies_on_this_machine_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    for vlm in (
        "pictogram",
        f"hf:{tmp_path}",
        "hf:model",
        "open_clip:local-dir:x/y",
        f"open_clip:ViT-B-32/{tmp_path}/w.pt",
    ):
        assert source_of_vlm(vlm) is None
    for dataset in ("pictograms", "folder:model", "planted:visual", "hf:model", str(tmp_path), "cub:model"):
        assert source_of_dataset(dataset) is None


@pytest.mark.parametrize("command", ["generate", "describe-pairs", "export"])
def test_runs_ask_too(command: str, trained_run: Path, tmp_path: Path, refused: Refused, no_network: list[str]) -> None:
    import shutil

    run = shutil.copytree(trained_run, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    names = {"vlm": "hf:stranger/vlm", "dataset": "hf:stranger/set", "model_name_or_path": "stranger/llm"}
    lines = [
        f"{name}: {names[name]}" if (name := line.partition(":")[0]) in names else line for line in config.split("\n")
    ]
    (run / "config.yaml").write_text("\n".join(lines))
    (run / "descriptions.jsonl").touch()
    line = [command, str(run), "--out", str(tmp_path / "out.json"), *(["--merge"] if command == "export" else [])]
    said = refused(line)
    for source in (
        "the hub's model stranger/vlm (--vlm)",
        "the hub's dataset stranger/set (--dataset)",
        "stranger/llm",
    ):
        assert source in said
    assert not no_network


def test_local_runs_are_not_asked_about(trained_run: Path, tmp_path: Path) -> None:
    main(["generate", str(trained_run), "--vlm", "none", "--classes", "cat", "--out", str(tmp_path / "x.jsonl")])
