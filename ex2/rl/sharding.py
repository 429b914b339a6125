"""Weights that DeepSpeed ZeRO-3 or FSDP2 share out over processes, as whole tensors; other weights just as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """The trainable weights of `module` by name, on the CPU. All processes must call it."""
    trainable = _trainable(module)
    with _gathered(list(trainable.values())):
        return {name: _whole(weight.detach()).cpu().contiguous().clone() for name, weight in trainable.items()}


def load_whole_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Overwrite the trainable weights of `module`, which may be sharded by FSDP2. All processes must call it.

    DeepSpeed's need more than that: its checkpoints bring them back.
    """
    for name, weight in _trainable(module).items():
        value = weights[name].to(weight.device)
        if isinstance(weight, DTensor):
            value = distribute_tensor(value, weight.device_mesh, weight.placements)
        with torch.no_grad():
            weight.copy_(value)


def _trainable(module: nn.Module) -> dict[str, Tensor]:
    # Not named_parameters(): only state_dict() makes FSDP2 put its gathered copies away, which updates do not reach.
    return {name: weight for name, weight in module.state_dict(keep_vars=True).items() if weight.requires_grad}


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@contextmanager
def _gathered(weights: list[Any]) -> Iterator[None]:
    if not any(hasattr(weight, "ds_id") for weight in weights):  # what ZeRO-3 marks its parameters with
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(weights):
        yield


@contextmanager
def loading_whole() -> Iterator[None]:
    """Within this context, transformers loads models whole, where with DeepSpeed ZeRO-3 it shares them out at once.

    The policy is sampled before training, and the VLM is never trained: both are needed whole. DeepSpeed shares the policy
    out when training begins.
    """
    from transformers.integrations import deepspeed

    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config
