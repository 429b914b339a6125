"""The range of every number that an option takes, of all commands, in one table. None of them may be NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ex2.base.errors import UserError

Range = tuple[float, float | None]

_COUNT, _POSITIVE, _FACTOR, _SHARE, _SEED = (1, 10**9), (1e-6, 1e6), (0, 1e6), (0, 1), (0, 2**31 - 1)

RANGES: dict[str, Range] = {
    # images, rewards, reports
    "images_per_class": _COUNT, "heldout_fraction": _SHARE, "split_seed": _SEED, "reading_weights": _FACTOR,
    "reward_scale": (0, 1e6), "pairs": _COUNT, "eval_samples": _COUNT, "best_of_n": (2, 10**9), "eval_batch_size": _COUNT,
    "sample_tables": (0, 10**9),
    # policy
    "lora_r": (1, 10**5), "lora_alpha": (0, 10**6), "lora_dropout": _SHARE,
    # rollouts
    "num_generations": _COUNT, "num_generations_eval": _COUNT, "generation_batch_size": _COUNT, "steps_per_generation": _COUNT,
    "max_completion_length": _COUNT, "temperature": _POSITIVE, "top_p": _SHARE, "top_k": (0, 10**9), "min_p": _SHARE,
    "repetition_penalty": _POSITIVE, "pad_to_multiple_of": _COUNT, "num_completions_to_print": (0, 10**9),
    "max_tool_calling_iterations": (0, 10**9), "vllm_server_port": (1, 65535), "vllm_group_port": (1, 65535),
    "vllm_server_timeout": (0, 1e6), "vllm_gpu_memory_utilization": _SHARE, "vllm_max_model_length": _COUNT,
    "vllm_tensor_parallel_size": _COUNT, "vllm_importance_sampling_clip_max": _FACTOR,
    "vllm_importance_sampling_clip_min": _FACTOR, "vllm_importance_sampling_cap": _FACTOR,
    # updates
    "per_device_train_batch_size": _COUNT, "per_device_eval_batch_size": _COUNT, "gradient_accumulation_steps": _COUNT,
    "num_iterations": _COUNT, "num_train_epochs": (0, 1e6), "max_steps": (-1, 10**9), "learning_rate": (0, 1e3),
    "scoring_batch_size": _COUNT,
    "value_learning_rate": (0, 1e3), "warmup_steps": (0, 1e9), "weight_decay": (0, 1e3), "max_grad_norm": _FACTOR,
    "adam_beta1": _SHARE, "adam_beta2": _SHARE, "adam_epsilon": _SHARE, "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _FACTOR, "beta": _FACTOR, "gamma": _SHARE, "lam": _SHARE, "vf_coef": _FACTOR, "epsilon": _SHARE,
    "epsilon_high": _FACTOR, "delta": _FACTOR, "cliprange_value": _FACTOR, "whitening_floor": _FACTOR, "kl_target": _POSITIVE,
    "kl_horizon": _COUNT, "target_kl": _FACTOR, "kl_stop": _FACTOR, "reward_weights": (-1e6, 1e6),
    "reward_clip_range": (-1e6, 1e6), "router_aux_loss_coef": _FACTOR, "entropy_coef": _FACTOR, "entropy_coef_min": _FACTOR,
    "entropy_coef_max": _FACTOR, "entropy_coef_delta": _FACTOR, "entropy_target": _FACTOR, "top_entropy_quantile": _SHARE,
    "off_policy_mask_threshold": _FACTOR, "sapo_temperature_neg": _POSITIVE, "sapo_temperature_pos": _POSITIVE,
    "vespo_k_pos": _FACTOR, "vespo_lambda_pos": _FACTOR, "vespo_k_neg": _FACTOR, "vespo_lambda_neg": _FACTOR,
    "ref_model_mixup_alpha": _SHARE, "ref_model_sync_steps": _COUNT,
    # the run
    "seed": _SEED, "data_seed": _SEED, "logging_steps": (1e-6, 1e9), "eval_steps": (1e-6, 1e9), "eval_delay": (0, 1e9),
    "save_steps": (1e-6, 1e9), "save_total_limit": _COUNT, "eval_accumulation_steps": _COUNT, "torch_empty_cache_steps": _COUNT,
    "dataloader_num_workers": (0, 10**4), "dataloader_prefetch_factor": (1, 10**4), "ddp_bucket_cap_mb": (1, 10**6),
    "ddp_timeout": (1, 10**9), "local_rank": (-1, 10**6),
    # commands
    "n": _COUNT, "precision": (0.001, 0.5),
    "samples": _COUNT, "batch_size": _COUNT, "max_new_tokens": _COUNT, "most": _COUNT, "tolerance": (0, 100), "see": (0.001, 1),
    "port": (0, 65535),
    "merge_tolerance": _FACTOR,
}  # fmt: skip
"""Lowest and highest value by the name of an option, ends included. A list is one of such numbers."""


def check_ranges(options: Any, ranges: Mapping[str, Range] | Iterable[str], form: str = "{}={}") -> None:
    """Raise UserError where an option is a number outside of its range (low, high); `high` None: no limit.

    Args:
        options: May have an attribute for each name; one that is None, text or no number has nothing to check.
        ranges: Range of each name, ends included; or the names of those that have one in `RANGES`.
        form: How an option and its value are shown.
    """
    table = ranges if isinstance(ranges, Mapping) else {name: RANGES[name] for name in ranges}
    for name, (low, high) in table.items():
        given = getattr(options, name, None)
        for value in given if isinstance(given, (list, tuple)) else [given]:
            # NaN is out of range, too.
            if isinstance(value, (int, float)) and not low <= value <= (math.inf if high is None else high):
                shown = form.format(name, value)
                raise UserError(f"{shown} is out of range: it must be {_limit(value, low, high)}.")


def _limit(value: float, low: float, high: float | None) -> str:
    if high is None or (value < low and high >= 1000):
        return f"at least {low:.12g}"
    return f"between {low:.12g} and {high:.12g}"
