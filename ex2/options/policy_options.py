"""Options of the policy: TRL's ModelConfig, with errors for what cannot work.

What needs the model's files to be known is checked by `ex2.policy.checks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ModelConfig

from ex2.base.errors import UserError

_FOUR_BITS_ONLY = {"bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False, "bnb_4bit_quant_storage": None}


def _usual_dtype() -> str:
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


@dataclass
class PolicyConfig(ModelConfig):
    """The base model and its LoRA adapter, in TRL's names.

    Raises:
        UserError: An option out of range, one that EX2 does not support, or two that exclude each other.
    """

    use_peft: bool = field(default=True, metadata={"help": "Always true: EX2 trains LoRA adapters."})
    dtype: str | None = field(
        default_factory=_usual_dtype,
        metadata={
            "help": "Precision of the frozen base weights; the adapter's are float32. Default: bfloat16 where a GPU multiplies "
            "in it, else float32.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )

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
