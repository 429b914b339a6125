"""Whole runs on the tiny policy, real pictograms and the embedded VLM: every algorithm, launcher and mirror."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from ex2.base.embedded_llm import public_name
from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.parse import parse_options
from ex2.options.recorded import read_settings
from ex2.policy.checks import inspect_policy
from ex2.rl.precision import SampledAsScored
from ex2.run import training
from ex2.run.folder import read_jsonl
from ex2.run.training import run
from ex2.texts.questions import opening_of

ROOT = Path(__file__).resolve().parents[2]
Arguments = Callable[..., list[str]]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _launch(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def test_run_folder_is_complete(trained_run: Path) -> None:
    assert {path.name for path in trained_run.iterdir()} >= {
        "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "base_samples.jsonl", "README.md", "adapter",
        "checkpoint-2", "checkpoint-4", "before_after.json", "before_after.md", "before_after.png", "learning_curve.png",
    }  # fmt: skip
    for picture in ("before_after.png", "learning_curve.png"):
        assert (trained_run / picture).read_bytes().startswith(b"\x89PNG")
    config = trained_run / "config.yaml"
    again = parse_options("ppo", ["--config", str(config)])
    assert again.as_dict() == yaml.safe_load(config.read_text())

    environment = _json(trained_run / "environment.json")
    assert (environment["algorithm"], environment["processes"], environment["seed"]) == ("ppo", 1, 1)
    assert (environment["vlm"], environment["classes"], environment["skipped_images"]) == ("pictogram", 4, [])
    assert len(environment["vlm_fingerprint"]) == 64


def test_metrics_hold_reward_monitors_and_kl_of_each_rollout(trained_run: Path) -> None:
    rows = read_jsonl(trained_run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]  # the last is the summary of the run
    rollouts = [row for row in rows if "monitors/hub_score" in row]
    assert [(row["step"], row["sampled_texts"]) for row in rollouts] == [(1, 8), (3, 16)]
    for row in rollouts:
        assert {f"rewards/{name}/mean" for name in ("cosine", "no_repetition")} <= set(row)
        # The reward is 100 x the mean cosine that the monitor reports, plus half the quality term.
        assert row["rewards/cosine/mean"] == pytest.approx(100 * row["monitors/reward_cosine"], rel=1e-4)
        expected = row["rewards/cosine/mean"] + 0.5 * row["rewards/no_repetition/mean"]
        assert row["score"] == pytest.approx(expected, rel=1e-4)
    assert rollouts[0]["kl"] == 0  # a fresh adapter is the base model
    assert rollouts[1]["kl"] != 0


def test_every_sample_is_kept_with_every_reward_term(trained_run: Path) -> None:
    rows = read_jsonl(trained_run / "samples.jsonl")
    assert [row["step"] for row in rows] == [0] * 8 + [2] * 8
    names = ["cat", "eagle", "ear of corn", "whale"]
    for row in rows:
        assert set(row) == {"step", "class_id", "class_name", "question", "text", "scores"}
        assert set(row["scores"]) == {"cosine", "no_repetition", "heldout_cosine"}
        assert names[row["class_id"]] == row["class_name"]
    mean = sum(row["scores"]["cosine"] for row in rows[:8]) / 8
    first = read_jsonl(trained_run / "metrics.jsonl")[0]
    assert mean == pytest.approx(first["rewards/cosine/mean"], rel=1e-4)


def test_report_compares_with_controls(trained_run: Path) -> None:
    summary = _json(trained_run / "before_after.json")
    counts = {name: summary[name]["n"] for name in ("class_name", "template", "base", "best_of_n", "aligned")}
    assert counts == {"class_name": 4, "template": 4, "base": 8, "best_of_n": 4, "aligned": 8}
    assert summary["meta"]["training_texts"] == 16
    assert summary["meta"]["best_of_n"] == 2
    assert summary["template"]["heldout"]["mean"] > summary["base"]["heldout"]["mean"]  # words against random letters


MACHINE_PATH = re.compile(r"(?<![\w*/.])/\w+/")


def test_model_card(trained_run: Path) -> None:
    card = (trained_run / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert "ppo" in front["tags"]
    assert "    ex2 generate . --out" in card
    assert front["language"] == "en"
    results = front["model-index"][0]["results"]
    summary = _json(trained_run / "before_after.json")
    metrics = {m["name"]: m["value"] for result in results for m in result["metrics"]}
    assert metrics == {
        "held-out cosine, as written": round(summary["aligned"]["heldout"]["mean"], 4),
        "held-out cosine, without the class name": round(summary["nameless"]["aligned"]["heldout"]["mean"], 4),
    }
    assert "| learning_rate | 0.01 |" in card
    assert "| reward_funcs | cosine, no\\_repetition |" in card
    assert "| pairs |" not in card  # options that are not set
    assert "None" not in card
    assert "\n\n\n" not in card
    assert re.search(r"\n## Result\n\n\S", card)
    assert "aligned - best_of_n" in card
    assert "- dataset: folder:" in card
    assert MACHINE_PATH.search(card) is None


def test_adapters_have_cards_without_blanks_and_without_paths_of_this_machine(trained_run: Path) -> None:
    folders = [trained_run / "adapter", *trained_run.glob("checkpoint-*")]
    assert len(folders) > 1
    for folder in folders:
        card = (folder / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1])
        base = Path(read_settings(trained_run / "config.yaml")["model_name_or_path"]).name
        assert "base_model" not in front  # the hub refuses a card whose base model is no repository
        assert f"so that {base} describes" in card
        assert "ppo" in front["tags"]
        assert "More Information Needed" not in card
        assert MACHINE_PATH.search(card) is None


def test_one_class_trains_only_without_the_report(arguments: Arguments, class_folder: Path, tmp_path: Path) -> None:
    first = sorted(path for path in class_folder.iterdir() if path.is_dir())[0]
    shutil.copytree(first, tmp_path / "images" / first.name)
    options = {"dataset": f"folder:{tmp_path / 'images'}", "save_strategy": "no"}
    with pytest.raises(UserError, match=r"has one class: the intervals .* \(--before_after false\)"):
        run(parse_options("ppo", arguments(tmp_path / "run", **options)))
    assert not (tmp_path / "run").exists()
    run(parse_options("ppo", arguments(tmp_path / "run", before_after=False, **options)))
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_adapters_of_the_embedded_policy_name_its_hub_id() -> None:
    assert public_name("smollm2") == public_name(None) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert public_name("some/model") == "some/model"


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_other_algorithms_share_the_run(
    algorithm: str, arguments: Arguments, class_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = tmp_path / "images"
    shutil.copytree(class_folder, images)
    broken = sorted((images / "cat").iterdir())[0]
    broken.write_bytes(b"no image")
    folder = tmp_path / "run"
    options = {
        "reward_normalization": "zscore",
        "max_steps": 2,
        "save_strategy": "no",
        "lora_target_modules": ["all-linear"],
    }
    main(algorithm, arguments(folder, dataset=f"folder:{images}", **options))
    environment = _json(folder / "environment.json")
    assert environment["algorithm"] == algorithm
    assert environment["skipped_images"] == [f"cat/{broken.name}"]
    assert f"1 broken image file(s) skipped: cat/{broken.name}" in caplog.text
    assert len(read_jsonl(folder / "samples.jsonl")) == 8
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    scores = [row["scores"]["cosine"] for row in read_jsonl(folder / "samples.jsonl")]
    assert max(map(abs, scores)) < 10  # standard deviations, not 100 x cosine


def test_without_a_report_nothing_is_sampled_twice(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    main("ppo", arguments(folder, before_after=False, max_steps=2, save_strategy="no"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "adapter", "README.md"}
    assert "No report was asked for." in (folder / "README.md").read_text()
    assert capsys.readouterr().out == (
        f"Run: {folder}; what it is and how it went: {folder}/README.md. "
        f"Next: `ex2 generate {folder} --out {folder}/descriptions.jsonl`.\n"
    )


def test_start_from_an_adapter(arguments: Arguments, trained_run: Path, tmp_path: Path) -> None:
    for reference in ("base", "start"):
        folder = tmp_path / reference
        options = {"adapter_name_or_path": trained_run / "adapter", "reference": reference, "max_steps": 2}
        main("ppo", arguments(folder, **options, save_strategy="no", before_after=False))
        kl = read_jsonl(folder / "metrics.jsonl")[0]["kl"]
        assert (kl == 0) is (reference == "start")


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
@pytest.mark.parametrize("bf16", [False, True])
def test_rollouts_are_sampled_in_the_precision_of_training(
    algorithm: str, bf16: bool, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    seen: list[tuple[int, torch.dtype]] = []
    forward = LlamaForCausalLM.forward

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        if getattr(out, "logits", None) is not None and not torch.is_grad_enabled():
            seen.append((out.logits.shape[1], out.logits.dtype))
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    options = {"bf16": bf16, "max_steps": 1, "save_strategy": "no", "before_after": False}
    main(algorithm, arguments(tmp_path / "run", **options))
    one_token = {dtype for length, dtype in seen if length == 1}  # of `generate`
    assert one_token == {torch.bfloat16 if bf16 else torch.float32}


def test_mirrors_run_beside_the_local_files(
    arguments: Arguments, tmp_path: Path, wandb_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    folder = tmp_path / "run"
    config = tmp_path / "mirrors.yaml"
    config.write_text("report_to: [wandb, tensorboard]\nbefore_after: false\nsave_strategy: 'no'\nmax_steps: 4\n")
    main("ppo", ["--config", str(config), *arguments(folder, max_steps=None, save_steps=None)])
    # Two rollouts, and one table: of the first, and then of every tenth.
    (file,) = wandb_folder.glob("offline-run-*/files/media/table/samples*.table.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    first = [row for row in read_jsonl(folder / "samples.jsonl") if row["step"] == 0]
    assert table["columns"] == [
        "step",
        "class_id",
        "class_name",
        "question",
        "text",
        "cosine",
        "no_repetition",
        "heldout_cosine",
    ]
    assert [row[4:] for row in table["data"]] == [[row["text"], *row["scores"].values()] for row in first]
    assert list(wandb_folder.glob("offline-run-*/*.wandb"))
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert read_jsonl(folder / "metrics.jsonl")


def test_accelerate_launch(arguments: Arguments, trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    options = [
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--cpu",
    ]
    script = str(ROOT / "train" / "ppo_ex2.py")
    result = _launch([accelerate, "launch", *options, script, *arguments(folder)], cwd=tmp_path)
    assert "Warning" not in result.stdout + result.stderr  # nothing that a user could not act on
    # The same options and seed give the same texts as the run within this process.
    assert (folder / "samples.jsonl").read_text() == (trained_run / "samples.jsonl").read_text()
    assert (folder / "before_after.md").is_file()


def test_two_processes_write_one_run(arguments: Arguments, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    script = str(ROOT / "train" / "ppo_ex2.py")
    line = arguments(folder, max_steps=2, save_steps=2)
    result = _launch([torchrun, "--standalone", "--nproc_per_node", "2", script, *line], cwd=tmp_path)
    assert _json(folder / "environment.json")["processes"] == 2
    rows = read_jsonl(folder / "samples.jsonl")
    assert [row["step"] for row in rows] == [0] * 16  # 8 texts of each process
    assert len({row["text"] for row in rows[:8]} & {row["text"] for row in rows[8:]}) < 8
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 2]
    assert read_jsonl(folder / "metrics.jsonl")[0]["sampled_texts"] == 16
    assert _json(folder / "before_after.json")["base"]["n"] == 8
    assert result.stdout.count("aligned - base") == 2  # once a reading
    assert result.stdout.count("Next: ") == 1
    assert len(list((folder / "checkpoint-2").glob("rng_state_*.pth"))) == 2


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_policies_go_on_from_openings_and_are_paid_for_all_of_the_answer(
    arguments: Callable[..., list[str]],
    tiny_chat_llm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("What does a {} look like? -> A {} has\nWhat is a {}?\n", encoding="utf-8")
    prompts: list[str] = []
    sample = SampledAsScored._generate_single_turn

    def watched(self: Any, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        prompts.extend(self._tokenizer.batch_decode(prompt_ids))
        return sample(self, prompt_ids, *args, **kwargs)

    monkeypatch.setattr(SampledAsScored, "_generate_single_turn", watched)
    options = {"model_name_or_path": tiny_chat_llm, "questions": questions, "before_after": False, "max_steps": 2}
    main(algorithm, arguments(tmp_path / "run", **options))
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(prompts) == 8
    assert {row["question"] for row in rows} == set(questions.read_text(encoding="utf-8").splitlines())
    for row, prompt in zip(rows, prompts, strict=True):
        opening = opening_of(row["question"], row["class_name"])
        assert row["text"].startswith(opening)
        assert prompt.endswith(f"<|assistant|>{opening}")
        assert row["class_name"] in prompt


def test_each_process_loads_the_policy_on_its_own_device(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PartialState", lambda: SimpleNamespace(device=torch.device("meta")))
    options = parse_options("ppo", arguments(tmp_path / "run"))
    assert training._policy(options, inspect_policy(options)).model.device == torch.device("meta")
