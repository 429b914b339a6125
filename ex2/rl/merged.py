"""The adapter within the weights of the base, for as long as texts are sampled; the base itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import nn

_MOST = 2**30  # bytes: a second copy of larger weights may not fit, and what is saved beside them is little


@contextmanager
def adapter_merged(model: Any) -> Iterator[None]:
    """The active adapter of `model` merged into copies of the weights of its linear layers, which take their place meanwhile.

    A third of the time that a small policy takes on a CPU to add a token to a few texts is its adapter's, in many small steps
    (benchmarks/RESULTS.md). Sums are rounded once, to the type of the weights. Nothing is merged where the copies would take
    more than 1 GiB, and no layer that does more than add the product of its matrices (dropout, DoRA, biases).
    """
    layers = [layer for layer in model.modules() if _adds_a_product(layer)]
    if sum(layer.get_base_layer().weight.nbytes for layer in layers) > _MOST:
        layers = []
    kept = [layer.get_base_layer().weight for layer in layers]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                adapters = _active(layer)
                total = weight + sum(layer.get_delta_weight(name).float() for name in adapters)
                # Another parameter rather than other data: a tied layer keeps the one they shared.
                layer.get_base_layer().weight = nn.Parameter(total.to(weight.dtype), requires_grad=False)
                layer.merged_adapters.extend(adapters)
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight = weight
            layer.merged_adapters.clear()


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _adds_a_product(layer: Any) -> bool:
    """Whether a layer is a linear one that adds the scaled product of LoRA's matrices to its weights, and nothing else."""
    if type(layer) is not Linear or layer.disable_adapters or layer.merged or not _active(layer):
        return False
    weight: Any = layer.get_base_layer().weight
    drops = layer.training and any(getattr(layer.lora_dropout[name], "p", 0) > 0 for name in _active(layer))
    others = any(name in layer.lora_variant or layer.lora_bias[name] for name in _active(layer))
    return not drops and not others and weight.is_floating_point()
