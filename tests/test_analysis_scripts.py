"""The scripts in analysis/: from training to the table, what is finished is not repeated, what failed is named."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ex2.texts.categories import CATEGORIES

ROOT = Path(__file__).resolve().parent.parent

TINY: dict[str, object] = {
    "lora_r": 4,
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 1,
    "num_iterations": 1,
    "max_steps": 2,
    "max_completion_length": 8,
    "best_of_n": 2,
    "eval_samples": 2,
    "use_cpu": True,
    "bf16": False,
}


@dataclass
class Ended:
    """How a script ended, and what it printed."""

    status: int | str | None
    printed: str


@pytest.fixture
def script(
    warm_python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a script of analysis/ in this process; the studies that it starts are processes of their own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.executable", warm_python)
    monkeypatch.syspath_prepend(ROOT / "analysis")

    def run(name: str, *line: str) -> Ended:
        monkeypatch.setattr("sys.argv", [name, *line])
        status: int | str | None = 0
        try:
            runpy.run_path(str(ROOT / "analysis" / name), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return Ended(status, capsys.readouterr().out)

    return run


@pytest.mark.slow
def test_the_grid_fills_its_table_and_is_resumable(
    tiny_llm: Path, class_folder: Path, tmp_path: Path, script: Callable[..., Ended]
) -> None:
    config, grid, out = tmp_path / "base.yaml", tmp_path / "grid.yaml", tmp_path / "paper"
    config.write_text(yaml.safe_dump({**TINY, "model_name_or_path": str(tiny_llm), "before_after": False}))
    grid.write_text(
        yaml.safe_dump({"vlms": {"small": "base.yaml"}, "datasets": {"four": f"folder:{{data}}/{class_folder.name}"}})
    )
    line = ["--grid", str(grid), "--data", str(class_folder.parent), "--out", str(out)]
    result = script("reproduce_paper.py", *line, "--reward_normalization", "zscore")
    assert result.status == 0, f"{result}\n{(out / 'small_four.log').read_text()[-2000:]}"
    table = pd.read_csv(out / "paper.csv")
    assert table[["vlm", "dataset"]].to_numpy().tolist() == [["small", "four"]]
    shares = table[[f"share_{name}" for name in (*CATEGORIES, "unsure")]]
    assert shares.sum(axis=1).item() == pytest.approx(1)
    assert "| small | four |" in (out / "paper.md").read_text()

    # What is finished stays as it is; a file of descriptions that was cut off is completed, and is the same again.
    run = out / "small_four"
    before = {name: (run / name).read_bytes() for name in ("aligned.jsonl", "adapter/adapter_model.safetensors")}
    (run / "aligned.jsonl").write_bytes(before["aligned.jsonl"][:-40])
    again = script("reproduce_paper.py", *line, "--reward_normalization", "zscore")
    assert again.status == 0, again
    assert {name: (run / name).read_bytes() for name in before} == before

    missing = script("reproduce_paper.py", *line, "--vlms", "large")
    assert missing.status == "error: --vlms large is not in the grid, which has small."

    grid.write_text(yaml.safe_dump({"vlms": {"small": "absent.yaml"}, "datasets": {"four": "pictograms"}}))
    absent = script("reproduce_paper.py", *line)
    assert "the configuration of small" in str(absent.status)
    assert "does not exist" in str(absent.status)


@pytest.mark.slow
def test_planted_runs_end_in_a_table(tiny_chat_llm: Path, tmp_path: Path, script: Callable[..., Ended]) -> None:
    out = tmp_path / "planted"
    options = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]
    line = ["--out", str(out), "--kinds", "habitat", "--seeds", "3", "--random_seeds"]
    result = script("planted_preference.py", *line, "--model_name_or_path", str(tiny_chat_llm), *options)
    assert result.status == 0, f"{result}\n{(out / 'habitat_3.log').read_text()[-2000:]}"
    row = pd.read_csv(out / "planted.csv").iloc[0]
    assert (row["planted"], row["seed"]) == ("habitat", 3)
    assert f"planted kind recovered: {int(row['as_planted'])} of 1" in result.printed
    config = yaml.safe_load((out / "habitat_3" / "config.yaml").read_text())
    assert (config["dataset"], config["seed"], config["split_seed"]) == ("planted:habitat", 3, 3)

    failed = script("planted_preference.py", *line[:4], "--seeds", "4", "--random_seeds", "--learning_rat", "1")
    assert "habitat_4 ended with status 2: see" in str(failed.status)
    assert "Unknown option learning_rat" in (out / "habitat_4.log").read_text()
