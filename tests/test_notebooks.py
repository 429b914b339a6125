"""The notebooks in analysis/ run from top to bottom on embedded data, and say what the data hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import torch

from ex2.cli import main
from ex2.data import load_images
from ex2.data.planted import SENTENCES
from ex2.texts.descriptions import Description, write_descriptions
from tests.vlm.conftest import _clip

ANALYSIS = Path(__file__).resolve().parent.parent / "analysis"


def planted_descriptions(path: Path, kinds: dict[str, int], dataset: str) -> Path:
    """The planted sentences themselves as descriptions: of each class so many of each kind."""
    rows = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    names = load_images(dataset).class_names
    records = [
        Description(dataset, i, name, "Describe a {}.", row["text"], "hand", 0, {}, extra={"vlm": "pictogram"})
        for i, name in enumerate(names)
        for kind, count in kinds.items()
        for row in [row for row in rows if (row["class_name"], row["category"]) == (name, kind)][:count]
    ]
    write_descriptions(path, records)
    return path


def execute(name: str, environment: dict[str, Path | str], python: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a notebook in a kernel of its own; the text that its cells print or show, one entry a code cell."""
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    # The kernel, and what `ex2` is beside it.
    monkeypatch.setattr("sys.executable", python)
    notebook = nbformat.read(ANALYSIS / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ANALYSIS)}}).execute()
    return [
        "\n".join(_text(output) for output in cell["outputs"]) for cell in notebook.cells if cell["cell_type"] == "code"
    ]


def _text(output: Any) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    data = output.get("data", {})
    return f"{data.get('text/plain', '')}{'[png]' if 'image/png' in data else ''}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_notebook_for_a_small_gpu_goes_from_the_installation_to_an_answer(
    tiny_chat_llm: Path, class_folder: Path, warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own configuration, on tiny models and four classes instead of CLIP, Qwen2.5 and CIFAR-100."""
    torch.manual_seed(0)
    for part in _clip():
        part.save_pretrained(tmp_path / "clip")
    options = (
        f"--vlm hf:{tmp_path / 'clip'} --dataset folder:{class_folder} --model_name_or_path {tiny_chat_llm} --max_steps 4 "
        "--best_of_n 2 --eval_samples 1 --max_completion_length 8 --use_cpu true"
    )
    environment: dict[str, Path | str] = {"EX2_OUT": tmp_path / "run", "EX2_OPTIONS": options}
    printed = execute("clip_small.ipynb", environment, warm_python, monkeypatch)
    assert "no GPU" in printed[1]
    assert "samples a rollout                64" in printed[2]
    assert "What the results can show" in printed[2]
    assert "[4/4] zero-shot classification" in printed[3]
    assert re.match(r"(No preference of CLIP was found|CLIP prefers [\w ]+)\.\n", printed[4])
    assert "4 classes are too few" in printed[4]
    assert printed[5].count("[png]") == 3
    assert "aligned" in printed[6]
    assert (tmp_path / "run" / "analysis" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_notebooks_find_what_was_planted(warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = {"visual": 2, "habitat": 2, "non_visual": 2, "spurious": 2}
    for kind in ("visual", "habitat"):
        base = planted_descriptions(tmp_path / f"{kind}_base.jsonl", mixed, f"planted:{kind}")
        for run, most in ((0, 6), (1, 5)):
            aligned = planted_descriptions(
                tmp_path / f"{kind}_{run}.jsonl", {kind: most, "spurious": 1, "non_visual": 7 - most}, f"planted:{kind}"
            )
            main(["analyze", str(aligned), "--base", str(base), "--out", str(tmp_path / f"{kind}_{run}")])

    printed = execute(
        "attribute_preferences.ipynb",
        {
            "EX2_DESCRIPTIONS": tmp_path / "visual_0.jsonl",
            "EX2_BASE": tmp_path / "visual_base.jsonl",
            "EX2_DATASET": "planted:visual",
        },
        warm_python,
        monkeypatch,
    )
    assert "128 descriptions of 16 classes, 128 by the untrained policy" in printed[1]
    assert "Preferred: visual. The policy says more of it" in printed[2]
    assert "[png]" in printed[3]
    assert "[png]" in printed[4]
    assert "random_words" in printed[5]

    folders = {kind: f"{tmp_path / kind}_0:{tmp_path / kind}_1" for kind in ("visual", "habitat")}
    sides = {"EX2_FIRST": folders["visual"], "EX2_SECOND": folders["habitat"]}
    printed = execute("compare_vlms.ipynb", sides, warm_python, monkeypatch)
    assert "planted:visual" in printed[0]
    assert "dataset is not the same" in printed[1]
    assert "[png]" in printed[1]
    rows = [line.split() for line in printed[2].splitlines()]
    (share,) = (row for row in rows if row[1:3] == ["share_of_clauses", "visual"])
    assert float(share[3]) > 0.2  # the mean; with two runs a side little is sure
    assert "rose_for" in printed[3]
