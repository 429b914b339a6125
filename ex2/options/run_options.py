"""All options of one run as one object. Importing this module imports neither torch nor TRL, and no check."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ex2.base.errors import UserError

if TYPE_CHECKING:
    from trl import GRPOConfig, RLOOConfig

    from ex2.options.ex2_options import EX2Config
    from ex2.options.policy_options import PolicyConfig
    from ex2.rl.ppo_config import PPOConfig

    TrainerConfig = PPOConfig | GRPOConfig | RLOOConfig

T = TypeVar("T")

ALGORITHMS = ("ppo", "grpo", "rloo")


@dataclass
class RunOptions:
    """All options of one run.

    Attributes:
        algorithm: ppo, grpo or rloo.
        ex2: EX2's own options.
        policy: TRL's ModelConfig: the base model and its LoRA adapter.
        trainer: PPOConfig, GRPOConfig or RLOOConfig.
    """

    algorithm: str
    ex2: EX2Config
    policy: PolicyConfig
    trainer: TrainerConfig

    @property
    def resuming(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return str(self.trainer.resume_from_checkpoint or "false").lower() != "false"

    @property
    def defining_options(self) -> list[str]:
        """Options that make a run what it is: with another value of one of them it would be another run."""
        free = {"before_after", "eval_samples", "best_of_n", "eval_batch_size", "cache_dir", "overwrite", "dry_run"}
        own = [f.name for part in (self.ex2, self.policy) for f in fields(part)]
        sampling = ["max_completion_length", "temperature", "chat_template_kwargs", "seed"]
        return [name for name in own if name not in free] + sampling

    @property
    def output_dir(self) -> Path:
        return Path(_known(self.trainer.output_dir))

    @property
    def report_to(self) -> list[str]:
        """Mirrors of the metrics, such as wandb."""
        mirrors = self.trainer.report_to
        return [mirrors] if isinstance(mirrors, str) else list(mirrors or [])

    @property
    def max_new_tokens(self) -> int:
        """Longest completion in tokens."""
        return _known(self.trainer.max_completion_length)

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Further arguments of the chat template."""
        kwargs = self.trainer.chat_template_kwargs or {}
        assert isinstance(kwargs, dict), "transformers turns the option's JSON text into a dict"
        return kwargs

    @property
    def micro_batches_per_rollout(self) -> int:
        """Forward and backward passes of each process in one epoch over a rollout."""
        return _known(self.trainer.steps_per_generation)

    @property
    def samples_per_rollout(self) -> int:
        """Completions sampled between two rounds of updates, over all processes."""
        return _known(self.trainer.generation_batch_size)

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps taken on each rollout."""
        passes = self.trainer.num_iterations * self.micro_batches_per_rollout
        return passes // self.trainer.gradient_accumulation_steps

    @property
    def prompts_per_rollout(self) -> int:
        """Different prompts in a rollout; each is answered `num_generations` times."""
        return self.samples_per_rollout // _known(self.trainer.num_generations)

    def planned_samples(self, prompts: int) -> int:
        """Completions that the whole run samples, given the number of prompts (questions x classes or ordered pairs)."""
        if self.trainer.max_steps > 0:
            rollouts = -(-self.trainer.max_steps // self.updates_per_rollout)
        else:
            rollouts = int(prompts // self.prompts_per_rollout * self.trainer.num_train_epochs)
        return rollouts * self.samples_per_rollout

    def check_prompts(self, prompts: int) -> None:
        """Raise UserError where a rollout needs more different prompts than there are."""
        if prompts < self.prompts_per_rollout:
            subjects = "classes" if self.ex2.pairs is None else "ordered pairs"
            raise UserError(
                f"A rollout takes {self.prompts_per_rollout} different prompts, but there are only {prompts} (questions x "
                f"{subjects}): lower per_device_train_batch_size or steps_per_generation, raise num_generations, or add "
                "questions."
            )

    def as_dict(self) -> dict[str, Any]:
        """The resolved options as one flat mapping, in the form that a config file has."""
        merged: dict[str, Any] = {}
        for part in (self.ex2, self.policy):
            merged.update(asdict(part))
        merged.update(self.trainer.to_dict())
        # Not options of the user's: TRL derives the first from the others; the token is a secret.
        for name in ("generation_batch_size", "push_to_hub_token", "hub_token", "dry_run", "overwrite"):
            merged.pop(name, None)
        return {name: _plain(merged[name]) for name in sorted(merged)}


def _known(value: T | None) -> T:
    """An option that TRL leaves open until its config is made, and has filled in by then."""
    assert value is not None
    return value


def _plain(value: Any) -> Any:
    """A value as YAML can hold it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def num_processes() -> int:
    """Processes of this run, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))
