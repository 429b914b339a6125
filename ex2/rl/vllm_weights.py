"""What vLLM is sent before a rollout: the base's weights with the adapter added, while the base itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from accelerate.utils import is_peft_model
from torch import Tensor

from ex2.rl.trl_names import Mixin


class FrozenBase(Mixin):
    """Mixin for TRL's online trainers and PPOTrainer: rollouts through vLLM leave the base's weights as they are.

    TRL adds the adapter to the weights of the base before each rollout and subtracts it after, which rounds twice: in bfloat16,
    the base that is the reference of the KL drifts away. Here each layer is merged by itself, into a tensor of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.use_vllm and is_peft_model(self.model):
            if self.is_fsdp_enabled:
                raise ValueError("use_vllm=True with FSDP has not been tried: train with plain data parallel.")
            engine = self.vllm_generation
            engine._iter_named_params = partial(weights_with_adapter, engine)


def weights_with_adapter(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of the policy of `engine`, a `VLLMGeneration`, with the adapter merged, under the names that vLLM knows.

    The value head is left out: vLLM knows no such layer and would stop. All processes must take all of them, since DeepSpeed
    ZeRO-3 gathers each.
    """
    policy = engine.model
    for name, parameter in policy.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if policy.prefix in plain or "original_module" in plain or plain.startswith("value_head."):
            continue
        path, adapted, part = name.rpartition(".base_layer.")
        layer = policy.get_submodule(path) if adapted else None
        with engine._dist.gather_params([parameter] if layer is None else list(layer.parameters())):
            value = parameter.data if layer is None else merged(layer)[part]
            yield engine._fix_param_name_to_vllm(plain, extra_prefixes=["modules_to_save.default."]), value


def merged(layer: Any) -> dict[str, Tensor]:
    """Weight and bias of a layer with its active adapter merged, as new tensors; the layer is as before."""
    parameters = dict(layer.get_base_layer().named_parameters())
    kept = {name: parameter.data for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.data = parameter.data.clone()  # what PEFT adds to and subtracts from
    layer.merge()
    try:
        return {name: parameter.data.clone() for name, parameter in parameters.items()}
    finally:
        layer.unmerge()
        for name, parameter in parameters.items():
            parameter.data = kept[name]
