"""`ex2 train`: what it passes on, what its help teaches, what it refuses, and that it trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from ex2.base.shipped import shipped_configs
from ex2.cli import main
from ex2.options.parse import parse_options

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--per_device_train_batch_size", "4", "--num_generations", "2", "--use_cpu", "true", "--bf16", "false"]


@pytest.fixture
def passed_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[str]]]:
    """What the training entry point gets from a command line."""

    def call(*line: str) -> tuple[str, list[str]]:
        calls = []
        monkeypatch.setattr("ex2.cli.start_training", lambda algorithm, argv: calls.append((algorithm, argv)))
        main(["train", *line])
        (only,) = calls
        return only

    return call


@pytest.mark.parametrize(
    ("line", "algorithm", "options"),
    [
        (["quickstart"], "ppo", ["--config", "quickstart"]),
        (["quickstart", "--max_steps", "2"], "ppo", ["--config", "quickstart", "--max_steps", "2"]),
        (["--config", "quickstart", "--max_steps", "2"], "ppo", ["--config", "quickstart", "--max_steps", "2"]),
        (["--max_steps", "-1", "--config=my.yaml"], "ppo", ["--max_steps", "-1", "--config=my.yaml"]),
        (["--algorithm", "grpo", "my.yaml"], "grpo", ["--config", "my.yaml"]),
        (["my.yaml", "--seed", "1", "--algorithm=rloo"], "rloo", ["--config", "my.yaml", "--seed", "1"]),
        (["--reward_funcs", "cosine", "margin", "--seed", "1"], "ppo", ["--reward_funcs", "cosine", "margin", "--seed", "1"]),
        (["--algorithm", "grpo", "--help_options"], "grpo", ["--help"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_go_on_to_the_entry_point_in_their_order(
    line: list[str],
    algorithm: str,
    options: list[str],
    passed_on: Callable[..., tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("seed: 2\n")
    assert passed_on(*line) == (algorithm, options)


@pytest.mark.parametrize(
    ("line", "algorithm"),
    [
        (["quickstart_grpo"], "grpo"),
        (["--seed", "1", "--config=quickstart_rloo"], "rloo"),
        (["quickstart_grpo", "--algorithm", "ppo"], "ppo"),
        (["mine.yaml"], "grpo"),
        (["all.yaml"], "ppo"),
        (["run.yaml"], "rloo"),
    ],
    ids=" ".join,
)
def test_a_config_for_one_algorithm_trains_with_it(
    line: list[str],
    algorithm: str,
    passed_on: Callable[..., tuple[str, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(f"base: {ROOT / 'configs' / 'quickstart_grpo.yaml'}\nseed: 2\n")
    Path("all.yaml").write_text(f"base: {ROOT / 'configs' / 'paper' / 'base.yaml'}\ndataset: pictograms\n")
    Path("run.yaml").write_text("# Resolved options of this RLOO run\nnormalize_advantages: false\n")
    assert passed_on(*line)[0] == algorithm


@pytest.mark.parametrize("given", [["--config", "quickstart"], ["--config=quickstart"]])
def test_a_name_is_a_config_that_comes_with_ex2(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    by_name = parse_options("ppo", [*given, "--bf16", "false"])
    by_file = parse_options("ppo", ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--bf16", "false"])
    assert by_name.as_dict() == by_file.as_dict()
    assert by_name.output_dir == Path("runs/quickstart")
    (tmp_path / "quickstart").write_text("seed: 77\n")
    assert parse_options("ppo", [*given, *SMALL]).trainer.seed == 77  # a file of that name wins


def test_a_named_config_finds_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parse_options("ppo", ["--config", "paper/clip_b32", "--bf16", "false", "--use_cpu", "true"])
    assert (options.ex2.vlm, options.trainer.kl_target) == ("hf:openai/clip-vit-base-patch32", 10)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    rows = [line.split(maxsplit=1) for line in text.splitlines()]
    for name, path in shipped_configs().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# What:").strip()
        assert [name, first] in rows
    for words in (
        "ex2 train quickstart\n", "--algorithm grpo", "ex2 train --help_options",
        "accelerate launch -m ex2.train.ppo_ex2", "accelerate launch train/ppo_ex2.py",
    ):  # fmt: skip
        assert words in text


def test_all_training_options_are_one_flag_away(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for algorithm in ("ppo", "grpo"):
        with pytest.raises(SystemExit) as stop:
            main(["train", "--help_options", "--algorithm", algorithm])
        assert not stop.value.code
        shown[algorithm] = capsys.readouterr().out
    assert all("--reward_funcs" in text and "--lora_r" in text for text in shown.values())
    assert ("--kl_target" in shown["ppo"], "--kl_target" in shown["grpo"]) == (True, False)


def test_configs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "configs"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == list(shipped_configs())
    assert any(row.endswith("the EX2 paper's job with CLIP ViT-B/32 as the VLM.") for row in rows)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["quikstart"], "--config quikstart does not exist. Did you mean quickstart? `ex2 list configs`"),
        (["--config", "clip_b32"], "--config clip_b32 does not exist. Did you mean paper/clip_b32?"),
        ([], "Name a config, for example `ex2 train quickstart`"),
        (["quickstart", "--config", "pairs"], "Two configs are named: quickstart and --config"),
        (["quickstart", "--config=pairs"], "Two configs are named: quickstart and --config"),
        (["quickstart", "--algorithm", "dpo"], "--algorithm dpo is unknown. Did you mean ppo?"),
        (["quickstart", "--max_step", "2"], "Unknown option max_step on the command line. Did you mean max_steps?"),
    ],
)
def test_mistakes_are_one_line(line: list[str], words: str, refused: Callable[[list[str]], str]) -> None:
    assert words in refused(["train", *line])


def test_other_commands_still_refuse_what_they_do_not_know(refused: Callable[[list[str]], str]) -> None:
    assert "Unrecognized arguments: --max_steps 2" in refused(["list", "vlms", "--max_steps", "2"])


def test_it_trains(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """One option comes from a config named first, the others from the command line."""
    config = tmp_path / "run.yaml"
    config.write_text("max_steps: 2\nseed: 5\nsave_strategy: 'no'\n")
    line = arguments(tmp_path / "run", max_steps=None, seed=None, save_steps=None, before_after="false")
    main(["train", str(config), *line])
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 2
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert "seed: 5\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ex2 {version('ex2')}"
    assert lines[1].startswith("python 3.")
    assert lines[2:] == [f"{name} {version(name)}" for name in ("torch", "transformers", "trl")]
