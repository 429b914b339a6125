"""From YAML and the command line to checked options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ex2.base.errors import UserError
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions, num_processes

SMALL = ["--per_device_train_batch_size", "4", "--num_generations", "2", "--use_cpu", "true"]


def _yaml(folder: Path, text: str) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_defaults_report_nowhere_and_train_an_adapter(algorithm: str) -> None:
    options = parse_options(algorithm, SMALL)
    assert options.trainer.report_to == []
    assert options.output_dir == Path("runs/ex2")
    assert options.policy.use_peft is True
    assert options.trainer.logging_steps == 1
    assert options.ex2.vlm == "pictogram"


def test_command_line_wins_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    config = _yaml(tmp_path, "learning_rate: 1.0e-3\nreward_funcs: [margin]\nlora_r: 3\n")
    options = parse_options("ppo", [*config, "--lora_r", "5", *SMALL])
    assert options.trainer.learning_rate == 1e-3
    assert options.ex2.reward_funcs == ["margin"]
    assert options.policy.lora_r == 5
    assert options.ex2.images_per_class == 256


LAYERED = {
    "base.yaml": "learning_rate: 1.0e-3\nlora_r: 2\nseed: 5\nppo: {kl_target: 3, lam: 0.5}\ngrpo: {lora_r: 7}\n",
    "vlms/clip.yaml": "base: ../base.yaml\nvlm: hf:some/clip\nlora_r: 3\nppo:\n  lam: 0.25\n  seed: 6\n",
}


def _layered(folder: Path, **changes: str) -> list[str]:
    for name, text in (LAYERED | changes).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return ["--config", str(folder / "vlms" / "clip.yaml"), *SMALL]


def test_a_file_wins_over_its_base_and_an_algorithm_s_section_over_its_file(tmp_path: Path) -> None:
    ppo = parse_options("ppo", _layered(tmp_path))
    assert (ppo.ex2.vlm, ppo.trainer.learning_rate) == ("hf:some/clip", 1e-3)
    assert (ppo.trainer.kl_target, ppo.trainer.lam, ppo.trainer.seed, ppo.policy.lora_r) == (3, 0.25, 6, 3)
    grpo = parse_options("grpo", _layered(tmp_path))
    assert (grpo.trainer.seed, grpo.policy.lora_r) == (5, 3)  # the file's own value, not the section of its base
    assert parse_options("rloo", [*_layered(tmp_path), "--lora_r", "9"]).policy.lora_r == 9
    resolved = ppo.as_dict()
    assert not {"base", "ppo", "grpo"} & set(resolved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base.yaml": "base: vlms/clip.yaml\n"}, r"base .*clip\.yaml of .*base\.yaml is its own base"),
        ({"vlms/clip.yaml": "base: other.yaml\n"}, r"base .*other\.yaml of .*clip\.yaml does not exist"),
        ({"base.yaml": "learning_rte: 1\n"}, r"learning_rte in .*base\.yaml. Did you mean learning_rate"),
        (
            {"base.yaml": "ppo:\n  learning_rte: 1\n"},
            r"learning_rte under ppo in .*base\.yaml. Did you mean learning_rate",
        ),
        ({"base.yaml": "ppo: 3\n"}, r"base .*base\.yaml of .*: ppo must hold indented option: value lines"),
        ({"base.yaml": "env: 3\n"}, r"env must hold indented"),
        ({"base.yaml": "a: [1"}, r"base .*base\.yaml of .*clip\.yaml is no valid YAML"),
    ],
)
def test_errors_name_the_file_they_are_in(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_options("ppo", _layered(tmp_path, **changes))


def test_a_config_file_sets_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX2_TEST_VARIABLE", "before")
    parse_options("ppo", [*_yaml(tmp_path, "env: {EX2_TEST_VARIABLE: 3}\n"), *SMALL])
    assert os.environ["EX2_TEST_VARIABLE"] == "3"


def test_unknown_options_are_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Unknown option lerning_rate on the command line. Did you mean learning_rate\?"
    ):
        parse_options("ppo", ["--lerning_rate", "1"])
    with pytest.raises(UserError, match=r"Unknown option rewardfuncs in .*run.yaml. Did you mean reward_funcs\?"):
        parse_options("ppo", _yaml(tmp_path, "rewardfuncs: [cosine]"))
    with pytest.raises(UserError, match=r"Unknown option kl_target"):
        parse_options("grpo", ["--kl_target", "1"])


@pytest.mark.parametrize(
    ("content", "words"),
    [("a: [1", "no valid YAML"), ("- a\n- b", "option: value"), ("", "option: value"), ("lora_r: many", "lora_r")],
)
def test_broken_config_files(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse_options("ppo", _yaml(tmp_path, content))
    assert "\n" not in str(error.value)


def test_config_file_that_is_absent_or_not_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.yaml does not exist"):
        parse_options("ppo", ["--config", str(tmp_path / "nothing.yaml")])
    with pytest.raises(UserError, match="--config needs a file"):
        parse_options("ppo", ["--config"])


def test_values_of_the_wrong_kind_name_their_option() -> None:
    with pytest.raises(UserError, match=r"^lora_r=many must be a number\.$"):
        parse_options("ppo", ["--lora_r", "many", *SMALL])
    with pytest.raises(UserError, match="reward_normalization"):
        parse_options("ppo", ["--reward_normalization", "rank", *SMALL])
    with pytest.raises(UserError, match=r"top_p=0\.5 samples from another distribution"):
        parse_options("ppo", ["--top_p", "0.5", *SMALL])


def test_stray_values() -> None:
    with pytest.raises(UserError, match="Stray value b on the command line"):
        parse_options("ppo", ["--vlm", "a", "b", *SMALL])


def test_batches_that_do_not_divide() -> None:
    with pytest.raises(UserError, match=r"gradient_accumulation_steps=3 must divide .* = 4 x 2"):
        parse_options("ppo", [*SMALL, "--gradient_accumulation_steps", "3", "--steps_per_generation", "2"])
    line = ["--per_device_train_batch_size", "4", "--num_generations", "3", "--use_cpu", "true"]
    with pytest.raises(UserError, match=r"generation_batch_size \(4\) must be divisible by num_generations \(3\)"):
        parse_options("ppo", line)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("learning_rate", "-1.0", "at least 0"),
        ("max_grad_norm", "-1.0", "at least 0"),
        ("per_device_train_batch_size", "0", "at least 1"),
        ("max_completion_length", "0", "at least 1"),
        ("temperature", "0.0", "at least 1e-06"),
        ("epsilon", "-0.1", "between 0 and 1"),
        ("epsilon", "nan", "between 0 and 1"),
        ("max_steps", "0", "at least 1"),
        ("seed", "-1", "at least 0"),
        ("split_seed", "-1", "at least 0"),
    ],
)
def test_numbers_out_of_range(algorithm: str, option: str, value: str, limit: str) -> None:
    with pytest.raises(UserError, match=rf"^{option}={value} is out of range: it must be {limit}\.$"):
        parse_options(algorithm, [*SMALL, f"--{option}", value])


def test_no_limit_of_updates_leaves_the_epochs() -> None:
    options = parse_options("ppo", [*SMALL, "--max_steps", "-1", "--num_train_epochs", "2"])
    assert options.planned_samples(prompts=10) == 40  # 2 epochs of 5 rollouts of 4 texts


def test_batch_arithmetic_by_hand() -> None:
    line = [*SMALL, "--steps_per_generation", "4", "--gradient_accumulation_steps", "2", "--num_iterations", "3"]
    options = parse_options("ppo", [*line, "--max_steps", "13"])
    assert options.samples_per_rollout == 16  # 4 texts x 4 micro-batches
    assert options.prompts_per_rollout == 8  # each answered twice
    assert options.updates_per_rollout == 6  # 3 passes over 4 micro-batches, 2 an update
    assert options.planned_samples(prompts=20) == 48  # 13 updates need 3 rollouts
    options.check_prompts(8)
    with pytest.raises(UserError, match="takes 8 different prompts, but there are only 7"):
        options.check_prompts(7)
    epochs = parse_options("ppo", [*line, "--num_train_epochs", "2"])
    assert epochs.planned_samples(prompts=20) == 64  # 2 whole rollouts an epoch, 2 epochs, 16 texts


def test_checkpoints_move_to_the_end_of_a_rollout() -> None:
    line = [*SMALL, "--steps_per_generation", "4", "--gradient_accumulation_steps", "2", "--num_iterations", "3"]
    assert parse_options("ppo", [*line, "--save_steps", "7"]).trainer.save_steps == 12
    assert parse_options("ppo", [*line, "--save_steps", "12"]).trainer.save_steps == 12


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_resolved_options_parse_to_themselves(tmp_path: Path, algorithm: str) -> None:
    line = [
        "--reward_funcs",
        "cosine",
        "no_repetition",
        "--system_prompt",
        "Be brief.",
        "--lora_target_modules",
        "all-linear",
    ]
    options = parse_options(algorithm, [*SMALL, *line, "--hub_token", "secret"])
    resolved = options.as_dict()
    again = parse_options(algorithm, _yaml(tmp_path, yaml.safe_dump(resolved)))
    assert again.as_dict() == resolved
    assert "secret" not in yaml.safe_dump(resolved)
    assert isinstance(again, RunOptions)


def test_number_of_processes_is_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert num_processes() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert num_processes() == 8
