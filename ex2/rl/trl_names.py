"""What EX2's trainers use of TRL's and transformers', private names included: all of it stands here.

EX2 builds on `trl.GRPOTrainer`, `trl.RLOOTrainer` and the `transformers.Trainer` below them. Where they offer no public way, it
overrides or calls private methods, which may change with any release. `PRIVATE` lists each with its purpose and its
parameters; `changed` compares the list with what is installed, and `tests/rl/test_trl_names.py` fails by name when a release
takes one away. `OnlineTrainer` tells the type checker what the mixins of this room find in the trainer they are mixed into.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState


@dataclass(frozen=True)
class PrivateName:
    """A private method or attribute of somebody else's class.

    Attributes:
        name: As it is called there.
        owners: Classes that have it, as `package.Class`; the class itself or one that it derives from.
        purpose: What EX2 needs it for.
        parameters: Those of a method that EX2 passes or takes by name or place, in order; None for an attribute, which its
            owner sets on itself.
    """

    name: str
    owners: tuple[str, ...]
    purpose: str
    parameters: tuple[str, ...] | None = None


_PPO = ("trl.GRPOTrainer",)
_ONLINE = ("trl.GRPOTrainer", "trl.RLOOTrainer")

PRIVATE = (
    # Rollouts
    PrivateName(
        "_generate_and_score_completions", _ONLINE, "PPO adds advantages and returns to a rollout; all check its scores",
        ("inputs",),
    ),
    PrivateName(
        "_calculate_rewards", _ONLINE, "scores of each rollout are kept, every sample is written to samples.jsonl",
        ("inputs", "prompts", "completions", "completion_ids_list"),
    ),
    PrivateName("_tokenize_prompts", _ONLINE, "prompts may end with the opening of the answer", ("prompts",)),
    PrivateName("_generate_single_turn", _ONLINE, "rollouts are sampled under autocast, by a `Decoder`", ()),
    PrivateName(
        "_get_per_token_logps_and_entropies", _PPO, "PPO scores texts itself, with the values, in one forward pass",
        ("model", "input_ids", "attention_mask", "logits_to_keep"),
    ),
    PrivateName("_tokenizer", _ONLINE, "texts of a bad step are written out"),
    PrivateName(
        "_prepare_inputs", _PPO, "the micro-batches of an update go prompt by prompt", ("generation_batch",),
    ),
    PrivateName("_buffered_inputs", _PPO, "the micro-batches of a rollout"),
    # Updates
    PrivateName("_compute_loss", _PPO, "PPO's loss instead of GRPO's", ("model", "inputs")),
    PrivateName("_get_grad_norm", _ONLINE, "a gradient that is not finite ends the run", ()),
    PrivateName("_step", _PPO, "whether any update was made yet"),
    # Logs
    PrivateName("_metrics", _PPO, "PPO's numbers are averaged and logged with TRL's"),
    PrivateName("_log_metric", _ONLINE, "the monitors are logged with the rewards", ("name", "value")),
    # Exact resume
    PrivateName(
        "_inner_training_loop", _ONLINE, "what a killed run left unfinished is cleaned up before training",
        ("resume_from_checkpoint",),
    ),
    PrivateName("_get_train_sampler", _ONLINE, "a resumed run goes on with the prompts of its epoch", ("dataset",)),
    PrivateName("_run_epoch", _ONLINE, "a finished run that is resumed makes no further update", ()),
    # Whole checkpoints
    PrivateName("_save_checkpoint", _ONLINE, "a checkpoint takes its place when it is whole", ("model", "trial")),
    PrivateName("_get_output_dir", _ONLINE, "the folder that a checkpoint is written in", ("trial",)),
    PrivateName(
        "_push_from_checkpoint", _ONLINE, "nothing is uploaded before it has its place", ("checkpoint_folder",)
    ),
    PrivateName(
        "_load_from_checkpoint", _ONLINE, "one that is damaged is one line; the value head comes back with the adapter",
        ("resume_from_checkpoint", "model"),
    ),
    PrivateName(
        "_load_optimizer_and_scheduler", _ONLINE, "the same; the KL coefficient comes back with them", ("checkpoint",)
    ),
    PrivateName("_load_rng_state", _ONLINE, "the same", ("checkpoint",)),
)  # fmt: skip
"""Every private name of TRL's trainers and transformers' Trainer that EX2 overrides, calls or reads."""

PRIVATE_ELSEWHERE = (
    PrivateName(
        "_iter_named_params", ("trl.generation.vllm_generation.VLLMGeneration",),
        "vLLM is sent the base with the adapter, without the base being changed and without the value head", (),
    ),
    PrivateName(
        "_fix_param_name_to_vllm", ("trl.generation.vllm_generation.VLLMGeneration",),
        "weights are sent under the names that vLLM knows", ("name", "extra_prefixes"),
    ),
    PrivateName(
        "_dist", ("trl.generation.vllm_generation.VLLMGeneration",), "weights that ZeRO-3 shares out are sent whole"
    ),
    PrivateName(
        "_hf_deepspeed_config_weak_ref", ("transformers.integrations.deepspeed",),
        "models that are needed whole are loaded whole under DeepSpeed ZeRO-3",
    ),
    PrivateName("_attn_implementation", ("transformers.PretrainedConfig",), "prompts share a prefix with SDPA only"),
)  # fmt: skip
"""The same of other classes and modules."""


def changed(names: Iterable[PrivateName] = (*PRIVATE, *PRIVATE_ELSEWHERE)) -> list[str]:
    """What is no longer there, or no longer takes what EX2 passes: one sentence each, none where all is well."""
    return [problem for private in names for owner in private.owners if (problem := _problem(owner, private))]


def _problem(owner: str, private: PrivateName) -> str | None:
    found, name = _find(owner), f"{owner}.{private.name}"
    if private.parameters is None:
        return None if _sets(found, private.name) else f"{name} is gone: {private.purpose}."
    method = getattr(found, private.name, None)
    if not callable(method):
        return f"{name}() is gone: {private.purpose}."
    taken = tuple(inspect.signature(method).parameters)
    if tuple(p for p in taken if p in private.parameters) == private.parameters:
        return None
    return f"{name}() takes {', '.join(taken)}, not {', '.join(private.parameters)}: {private.purpose}."


def _find(owner: str) -> Any:
    """A class or module by its dotted name."""
    module, _, name = owner.rpartition(".")
    if hasattr(parent := importlib.import_module(module), name):
        return getattr(parent, name)
    return importlib.import_module(owner)


def _sets(owner: Any, name: str) -> bool:
    """Whether a class or module has an attribute, or a class (or one that it derives from) sets it on itself."""
    if hasattr(owner, name):
        return True
    classes = [cls for cls in getattr(owner, "__mro__", ()) if cls is not object]
    return any(re.search(rf"self\.{name}\b[^\n]* = ", _source(cls)) for cls in classes)


@cache
def _source(cls: type) -> str:
    return inspect.getsource(cls)


class OnlineTrainer(Protocol):
    """What a mixin finds in the trainer that it is mixed into, TRL's GRPOTrainer or RLOOTrainer; all of it is theirs."""

    accelerator: Accelerator
    chat_template_kwargs: Any
    args: Any  # PPOConfig, GRPOConfig or RLOOConfig, which share no class but transformers' TrainingArguments
    control: TrainerControl
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool
    model: Any  # a PeftModel
    reward_func_names: list[str]
    reward_weights: Tensor
    state: TrainerState
    use_vllm: bool
    vllm_generation: Any
    _tokenizer: PreTrainedTokenizerBase

    # Bodies that raise: empty ones would make every class that is mixed with this abstract to type checkers.

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        raise AssertionError

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        raise AssertionError

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        raise AssertionError

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    def _get_output_dir(self, trial: Any) -> str:
        raise AssertionError

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        raise AssertionError

    def _inner_training_loop(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        raise AssertionError

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        raise AssertionError

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        raise AssertionError

    def _load_rng_state(self, checkpoint: str | None) -> None:
        raise AssertionError

    def _log_metric(self, name: str, value: float) -> None:
        raise AssertionError

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        raise AssertionError

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        raise AssertionError

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        raise AssertionError


if TYPE_CHECKING:
    Mixin = OnlineTrainer
else:
    # At runtime a mixin has no base: else the protocol's methods would stand between it and the trainer's.
    Mixin = object
