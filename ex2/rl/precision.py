"""How policies are sampled, and in which precision their adapters are trained."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from ex2.rl.decoding import Decoder, decoding
from ex2.rl.trl_names import Mixin


class SampledAsScored(Mixin):
    """Mixin for TRL's online trainers: sampling multiplies in bfloat16 or float16 where training does, and by a `Decoder`.

    Mixed precision wraps the forward pass of the model that is trained, which `generate` passes by: without this, weights of
    float32 are sampled from in float32, slower, and from another distribution than the one that log-probs are taken of.
    """

    _decoder: Decoder | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch, with the rollout where it needs a new one; autocast alone casts what adapters take in.

        PEFT would cast it to the adapter's float32 first, from which autocast casts it back: the same numbers, two copies later.
        """
        autocast = self.accelerator.mixed_precision != "no" and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)
        with disable_input_dtype_casting(self.model, active=autocast):
            return super().training_step(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        policy = self.accelerator.unwrap_model(self.model)
        if self._decoder is None:
            self._decoder = Decoder(policy)
        with self.accelerator.autocast(), decoding(policy, self._decoder):
            return super()._generate_single_turn(*args, **kwargs)


class TrainedInFloat32(Mixin):
    """Mixin for TRL's online trainers: the adapter of a quantised base is trained in float32.

    TRL casts it to bfloat16, where most of Adam's steps of 1e-5 round away: the adapter hardly moves. Where DeepSpeed or FSDP
    hold float32 masters of their own, it stays as TRL has it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs["model"] if "model" in kwargs else args[0]
        # A name of a model is loaded by TRL, and has no adapter yet.
        kept = trained_weights(given) if isinstance(given, torch.nn.Module) and is_peft_model(given) else {}
        super().__init__(*args, **kwargs)
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if not masters_elsewhere(sharded, self.accelerator.mixed_precision):
            to_float32(self.model, kept)


def masters_elsewhere(sharded: bool, mixed_precision: str) -> bool:
    """Whether trained weights are held in float32 beside the model's own, by DeepSpeed or FSDP if weights are `sharded`.

    Both do so for mixed precision alone: without it they update the weights in the type that they have.
    """
    return sharded and mixed_precision != "no"


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of the weights of `model` that are trained, by name, in float32."""
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def to_float32(model: torch.nn.Module, kept: dict[str, Tensor]) -> None:
    """Make the trained weights of `model` float32, with the values of `kept` where it has them and their own elsewhere."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = kept.get(name, parameter.detach()).to(parameter.device, torch.float32)
