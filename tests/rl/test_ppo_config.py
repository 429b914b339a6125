"""Options of PPO: what is refused, with which message."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from trl import GRPOConfig

from ex2.rl.ppo_config import GRPO_ONLY, PPOConfig


def config(tmp_path: Path, **options: Any) -> PPOConfig:
    return PPOConfig(**{"output_dir": str(tmp_path), "report_to": "none", "bf16": False, "use_cpu": True} | options)


def test_defaults_are_those_of_ppo(tmp_path: Path) -> None:
    options = config(tmp_path)
    assert (options.num_generations, options.num_iterations, options.beta, options.disable_dropout) == (1, 4, 0.2, True)
    assert (options.gamma, options.lam, options.epsilon, options.cliprange_value) == (1.0, 0.95, 0.2, 0.2)
    assert options.vllm_importance_sampling_correction
    assert options.vllm_importance_sampling_mode == "token_truncate"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_correction_for_vllm_is_what_it_was_set_to(tmp_path: Path, wanted: bool) -> None:
    options = config(tmp_path, vllm_importance_sampling_correction=wanted)
    assert options.vllm_importance_sampling_correction is wanted


def test_one_generation_a_prompt_survives_trls_check(tmp_path: Path) -> None:
    assert config(tmp_path, num_generations=1).num_generations == 1
    assert config(tmp_path, num_generations=4).num_generations == 4


def test_generation_batch_must_hold_whole_groups(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"generation_batch_size \(8\) must be divisible by num_generations \(3\)"):
        config(tmp_path, num_generations=3)


@pytest.mark.parametrize("batch", [3, 5])
def test_one_generation_a_prompt_allows_odd_batches(tmp_path: Path, batch: int) -> None:
    options = config(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=1)
    assert options.generation_batch_size == batch


@pytest.mark.parametrize(
    ("name", "value", "default"),
    [("top_k", 50, 0), ("top_p", 0.9, 1.0), ("min_p", 0.05, None), ("repetition_penalty", 1.2, 1.0)],
)
def test_refuses_sampling_from_another_distribution(tmp_path: Path, name: str, value: float, default: Any) -> None:
    message = rf"^{name}={value} samples from another distribution .* makes the KL negative; leave it at {default}\.$"
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=message):
        config(tmp_path, generation_kwargs={name: value})


@pytest.mark.parametrize(
    ("name", "value", "right"), [("temperature", 0.5, 1.0), ("do_sample", False, True), ("num_beams", 2, 1)]
)
def test_refuses_what_generation_kwargs_would_change(tmp_path: Path, name: str, value: Any, right: Any) -> None:
    config(tmp_path, generation_kwargs={name: right})
    with pytest.raises(
        ValueError, match=rf"^{name}={value} samples from another distribution .* leave it at {right}\.$"
    ):
        config(tmp_path, generation_kwargs={name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss_type", "grpo"),
        ("scale_rewards", "batch"),
        ("scale_rewards", False),
        ("delta", 1.5),
        ("epsilon_high", 0.28),
        ("importance_sampling_level", "sequence"),
        ("top_entropy_quantile", 0.2),
        ("use_bias_correction_kl", False),
        ("mask_truncated_completions", True),
        ("off_policy_mask_threshold", 0.5),
        ("entropy_coef", 0.01),
        ("sync_ref_model", True),
        ("ref_model_mixup_alpha", 0.5),
        ("ref_model_sync_steps", 8),
        ("sapo_temperature_neg", 1.0),
        ("sapo_temperature_pos", 1.1),
        ("vespo_k_pos", 1.0),
        ("vespo_lambda_neg", 1.0),
        ("entropy_coef_min", 0.1),
        ("entropy_coef_delta", 0.01),
        ("entropy_target", 0.3),
        ("use_adaptive_entropy", True),
        ("router_aux_loss_coef", 0.1),
    ],
)
def test_refuses_options_of_grpo_that_would_do_nothing(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.* has no effect in PPO; remove it or train with GRPO\.$"):
        config(tmp_path, **{name: value})


USED = {
    # the model
    "model_init_kwargs", "trust_remote_code", "disable_dropout", "cast_lm_head_to_fp32", "ds3_gather_for_generation",
    # rollouts
    "num_generations", "num_generations_eval", "max_completion_length", "shuffle_dataset", "pad_to_multiple_of",
    "generation_batch_size", "steps_per_generation", "temperature", "top_p", "top_k", "min_p", "generation_kwargs",
    "chat_template_kwargs", "repetition_penalty", "cache_implementation", "max_tool_calling_iterations",
    "use_transformers_continuous_batching", "transformers_continuous_batching_config", "use_transformers_paged",
    # updates and rewards
    "beta", "num_iterations", "epsilon", "reward_weights", "multi_objective_aggregation",
    # logs
    "log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo",
}  # fmt: skip


def test_each_option_of_grpo_is_used_or_refused() -> None:
    """A new option of TRL's fails here by name: what it does in PPO has to be decided."""
    shared = {field.name for field in fields(TrainingArguments)}
    own = {field.name for field in fields(GRPOConfig)} - shared
    used = {name for name in own if name.startswith("vllm_") or name == "use_vllm"} | USED
    assert own - used == set(GRPO_ONLY)
    assert used <= own


def test_every_weight_is_used_in_each_pass(tmp_path: Path) -> None:
    assert config(tmp_path).ddp_find_unused_parameters is False
    assert config(tmp_path, ddp_find_unused_parameters=True).ddp_find_unused_parameters is True


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("gamma", 1.1, "between 0 and 1"),
        ("gamma", -0.1, "between 0 and 1"),
        ("lam", 1.5, "between 0 and 1"),
        ("lam", float("nan"), "between 0 and 1"),
        ("beta", -0.1, "at least 0"),
        ("vf_coef", -1.0, "at least 0"),
        ("cliprange_value", -0.2, "at least 0"),
        ("value_learning_rate", -1e-3, "at least 0"),
        ("kl_target", -1.0, "at least 1e-06"),
        ("kl_target", 0.0, "at least 1e-06"),
        ("kl_stop", -1.0, "at least 0"),
        ("kl_horizon", 0, "at least 1"),
        ("num_iterations", 0, "at least 1"),
        ("temperature", 0.0, "at least 1e-06"),
    ],
)
def test_refuses_values_out_of_range(tmp_path: Path, name: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}={value} is out of range: it must be {limit}\.$"):
        config(tmp_path, **{name: value})


def test_takes_the_ends_of_ranges_and_none(tmp_path: Path) -> None:
    options = config(
        tmp_path, gamma=0.0, lam=1.0, beta=0.0, vf_coef=0.0, cliprange_value=None, kl_target=None, temperature=0.7,
        kl_horizon=1, num_iterations=1, value_learning_rate=None, min_p=0.0,
    )  # fmt: skip
    assert (options.gamma, options.lam, options.beta, options.cliprange_value) == (0.0, 1.0, 0.0, None)


@pytest.mark.parametrize("name", ["kl_target", "kl_stop"])
def test_refuses_a_kl_limit_without_a_reference(tmp_path: Path, name: str) -> None:
    message = rf"^{name}=5.0 needs the KL to the reference, which beta=0 does not compute; set beta above 0"
    with pytest.raises(ValueError, match=message):
        config(tmp_path, beta=0.0, **{name: 5.0})


def test_refuses_a_group_baseline_without_groups(tmp_path: Path) -> None:
    message = r"^group_baseline=true compares completions of one prompt: set {} to 2 or more\.$"
    with pytest.raises(ValueError, match=message.format("num_generations")):
        config(tmp_path, group_baseline=True)
    with pytest.raises(ValueError, match=message.format("num_generations_eval")):
        config(tmp_path, group_baseline=True, num_generations=2, num_generations_eval=1)
    assert config(tmp_path, group_baseline=True, num_generations=2).group_baseline
