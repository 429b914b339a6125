"""Options of PPO, on top of TRL's options for online training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from ex2.base.ranges import check_ranges

# Options of TRL's GRPO that have no meaning in PPO: changing one would silently do nothing, so it is refused. A test compares
# the list with what TRL has.
GRPO_ONLY = (
    "loss_type", "scale_rewards", "delta", "epsilon_high", "importance_sampling_level", "top_entropy_quantile",
    "use_bias_correction_kl", "mask_truncated_completions", "off_policy_mask_threshold",
    "sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
    "entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target",
    "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef",
)  # fmt: skip


@dataclass
class PPOConfig(GRPOConfig):
    """PPO in TRL's terms.

    From TRL: `beta` is the initial KL coefficient (in reward units per nat), `num_iterations` the PPO epochs over each
    rollout, `epsilon` the clip range of the probability ratio, `num_generations` the completions a prompt (1 is allowed),
    `steps_per_generation` the micro-batches a rollout, `gradient_accumulation_steps` the micro-batches an update.
    """

    beta: float = field(default=0.2, metadata={"help": "Initial KL coefficient, in reward units per nat."})
    num_iterations: int = field(default=4, metadata={"help": "PPO epochs: passes over each rollout."})
    num_generations: int | None = field(default=1, metadata={"help": "Completions sampled for each prompt."})
    disable_dropout: bool = field(
        default=True, metadata={"help": "Switch dropout off, so that equal policies have a probability ratio of 1."}
    )
    share_prefix: bool = field(
        default=True,
        metadata={
            "help": "Compute once what prompts of a micro-batch share, such as a system message or all of a prompt that several "
            "texts answer: fewer tokens, the same result up to rounding. Left out where it does not pay, and with dropout or "
            "attention other than SDPA."
        },
    )
    scoring_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts a forward pass of policy and reference over a rollout, which keeps no activations and so has room for "
            "more than training; null: the batch size of training, or of evaluation. Larger is faster on a GPU."
        },
    )
    group_baseline: bool = field(
        default=False,
        metadata={
            "help": "Subtract from each score the mean score of the other completions of its prompt: the value head is spared "
            "what it would learn slowly, how good a prompt is. Needs num_generations of at least 2."
        },
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    cliprange_value: float | None = field(
        default=0.2, metadata={"help": "How far a value may move from its old value in one rollout; null: no limit."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Scale the advantages of a rollout to mean 0 and variance 1."}
    )
    whitening_floor: float = field(
        default=0.0,
        metadata={
            "help": "Smallest standard deviation that whitening divides by, in reward units: late in a run, when texts hardly "
            "differ, it would multiply advantages by more and more. 1 suits rewards that are standardised (zscore)."
        },
    )
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the value head; null: the same as learning_rate."}
    )
    detach_value_head: bool = field(
        default=False, metadata={"help": "Keep the value loss from training the adapter: only the head learns from it."}
    )
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={
            "help": "How texts of vLLM are weighted by how likely the trained policy would have written them: token by token, as "
            "advantages are, with weights cut at vllm_importance_sampling_clip_max; or another of TRL's modes."
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Adapt the KL coefficient towards this KL (nats a completion); null: keep it fixed."},
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "Samples over which the KL coefficient adapts."})
    target_kl: float | None = field(
        default=None,
        metadata={
            "help": "Leave out what is left of a rollout's updates once the policy has moved away from the one that sampled it "
            "by more than this (approx_kl, nats a token); null: never."
        },
    )
    kl_stop: float | None = field(
        default=None,
        metadata={
            "help": "End the run as diverged when the KL to the reference (nats a completion) exceeds this; null: never."
        },
    )

    def __post_init__(self) -> None:
        # TRL asks for groups of at least two, which PPO does not need: its baseline is the value head. To pass the check,
        # a process's share of the rollout counts as one group.
        single = self.num_generations == 1
        if single:
            micro_batches = self.steps_per_generation or self.gradient_accumulation_steps
            share = self.generation_batch_size or self.per_device_train_batch_size * micro_batches
            self.num_generations = max(2, share)
            self.num_generations_eval = self.num_generations_eval or 1
        super().__post_init__()
        if single:
            self.num_generations = 1
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every LoRA weight and the value head is used in each pass
        self._check()

    def _check(self) -> None:
        for name in ("num_generations", "num_generations_eval"):
            if self.group_baseline and getattr(self, name) == 1:
                raise ValueError(f"group_baseline=true compares completions of one prompt: set {name} to 2 or more.")
        defaults = {f.name: f.default for f in fields(GRPOConfig)}
        for name in GRPO_ONLY:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name}={getattr(self, name)} has no effect in PPO; remove it or train with GRPO.")
        sampling: dict[str, tuple[Any, ...]] = {
            "top_k": (0, None), "top_p": (1.0,), "min_p": (None, 0.0), "repetition_penalty": (1.0,),
        }  # fmt: skip
        extra = self.generation_kwargs if isinstance(self.generation_kwargs, dict) else {}
        sampling |= {
            name: (value,)
            for name, value in {"temperature": self.temperature, "do_sample": True, "num_beams": 1}.items()
            if name in extra
        }
        for name, allowed in sampling.items():
            value = extra[name] if name in extra else getattr(self, name)
            if value not in allowed:
                raise ValueError(
                    f"{name}={value} samples from another distribution than the one PPO trains, which "
                    f"makes the KL negative; leave it at {allowed[0]}."
                )
        check_ranges(
            self,
            {"gamma": (0, 1), "lam": (0, 1), "beta": (0, None), "vf_coef": (0, None), "kl_target": (1e-6, None),
             "kl_stop": (0, None), "target_kl": (0, None), "whitening_floor": (0, None),
             "cliprange_value": (0, None), "value_learning_rate": (0, None), "kl_horizon": (1, None),
             "num_iterations": (1, None), "scoring_batch_size": (1, None), "temperature": (1e-6, None)},
        )  # fmt: skip
        if self.target_kl is not None and self.fp16:
            raise ValueError(
                "target_kl leaves updates out, which fp16's loss scaling cannot: train in bf16, or leave it out."
            )
        if self.multi_objective_aggregation not in ("sum_then_normalize", "normalize_then_sum"):
            raise ValueError(
                f"multi_objective_aggregation={self.multi_objective_aggregation} is unknown: choose sum_then_normalize, or "
                "normalize_then_sum to standardise each reward by itself."
            )
        for name in ("kl_target", "kl_stop"):
            if self.beta == 0 and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}={getattr(self, name)} needs the KL to the reference, which beta=0 does not compute; set beta "
                    f"above 0 or leave {name} out."
                )
