"""Options of the policy: TRL's ModelConfig, with errors for what cannot work.

What needs the model's files to be known is checked by `ex2.policy.checks`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trl import ModelConfig

from ex2.base.errors import UserError

if TYPE_CHECKING:
    from ex2.options.run_options import RunOptions

_FOUR_BITS_ONLY = {"bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False, "bnb_4bit_quant_storage": None}


@dataclass
class PolicyConfig(ModelConfig):
    """The base model and its LoRA adapter, in TRL's names.

    Raises:
        UserError: An option out of range, one that EX2 does not support, or two that exclude each other.
    """

    use_peft: bool = field(default=True, metadata={"help": "Always true: EX2 trains LoRA adapters."})

    def __post_init__(self) -> None:
        if not self.use_peft:
            raise UserError(
                "use_peft=false asks for full fine-tuning, but EX2 trains LoRA adapters, whose base is the reference of the "
                "KL: leave it out."
            )
        if self.load_in_8bit and self.load_in_4bit:
            raise UserError("load_in_8bit=true and load_in_4bit=true exclude each other: choose one.")
        if self.load_in_4bit and self.dtype in (None, "auto"):
            raise UserError(
                f"dtype={self.dtype} with load_in_4bit=true: name the type to compute in, such as bfloat16."
            )
        for name, default in _FOUR_BITS_ONLY.items():
            if not self.load_in_4bit and getattr(self, name) != default:
                raise UserError(f"{name}={getattr(self, name)} has no effect without load_in_4bit=true: leave it out.")
        for name in ("lora_modules_to_save", "lora_target_parameters"):
            if getattr(self, name):
                raise UserError(f"{name} is not supported: EX2 exports plain LoRA adapters; use lora_target_modules.")
        if self.lora_task_type != "CAUSAL_LM":
            raise UserError(f"lora_task_type={self.lora_task_type} is no task of a policy: leave it at CAUSAL_LM.")
        if self.lora_r < 1:
            raise UserError(f"lora_r={self.lora_r} is out of range: it must be at least 1.")
        if self.lora_alpha <= 0:
            raise UserError(f"lora_alpha={self.lora_alpha} is out of range: it must be positive.")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"lora_dropout={self.lora_dropout} is out of range: it must be at least 0 and below 1.")
        super().__post_init__()


def check_combination(options: RunOptions) -> None:
    """Refuse options of policy and trainer that cannot work together.

    Raises:
        UserError: Quantised weights that would have to be sharded or sent to vLLM, a reference that nothing is compared to, or
            settings of FSDP that would lose weights.
    """
    policy, trainer = options.policy, options.trainer
    if options.ex2.reference == "start" and trainer.beta == 0:
        raise UserError("reference=start has no effect with beta=0, which computes no KL: set beta above 0.")
    _check_fsdp()
    if not (policy.load_in_8bit or policy.load_in_4bit):
        return
    option = "load_in_8bit" if policy.load_in_8bit else "load_in_4bit"
    if trainer.use_vllm:
        raise UserError(
            f"{option}=true with use_vllm=true: vLLM would sample from the adapter merged into rounded weights, which is "
            "another policy than the one that is trained. Leave one of them out."
        )
    sharding = _sharding()
    # 4-bit weights that are stored in the type of the others can be sharded; 8-bit ones cannot.
    if sharding is not None and not (policy.load_in_4bit and policy.bnb_4bit_quant_storage == policy.dtype):
        cure = f", or set bnb_4bit_quant_storage={policy.dtype}" if policy.load_in_4bit else ""
        raise UserError(
            f"{option}=true with {sharding}, which cannot shard such weights: use ZeRO-2 or plain data parallel{cure}."
        )


def _check_fsdp() -> None:
    wanted = {
        "fsdp_version": ("2", "1", "only FSDP2 is supported"),
        "fsdp_state_dict_type": ("FULL_STATE_DICT", "SHARDED_STATE_DICT", "else checkpoints hold no adapter"),
        "fsdp_cpu_ram_efficient_loading": (
            "false", "false", "else only the first process has weights, and all sample before training",
        ),
    }  # fmt: skip
    for name, (value, default, why) in wanted.items() if _uses_fsdp() else ():
        given = os.environ.get(name.upper(), default)
        if given.lower() != value.lower():
            raise UserError(f"{name}={given} in accelerate's configuration: set it to {value}, {why}.")


def _uses_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _sharding() -> str | None:
    """What shards the frozen weights over processes, as `accelerate launch` says; None for nothing."""
    if _uses_fsdp():
        return "FSDP"
    return "DeepSpeed ZeRO-3" if os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else None
