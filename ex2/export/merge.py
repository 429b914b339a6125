"""The adapter merged into its base model, with proof that nothing was lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError
from ex2.policy.adapters import load_adapter
from ex2.policy.llm import load_base, load_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def merge_adapter(
    base: str,
    adapter: Path,
    out: Path,
    prompts: Sequence[str],
    *,
    dtype: str = "float32",
    tolerance: float = 1e-4,
    revision: str = "main",
    device: str = "cpu",
    allow_pickle_formats: bool = False,
) -> float:
    """Save base model and adapter as one model, and compare its logits, as saved, with those of the two.

    The base is loaded without quantisation: merged into rounded weights, an adapter no longer does what it was trained to.
    Merging and comparing compute in float64, so that each weight is rounded once, when it is saved, and the difference is
    what that costs: a forward pass in float32 is off by nearly 1e-4 itself. One model is in memory at a time, and one of its
    layers in float64. Models that do not compute in float64 (state spaces, grouped experts) are compared as they compute.

    Args:
        base: Folder or hub id of the base model.
        adapter: Folder of the LoRA adapter.
        out: Folder to write.
        prompts: Texts to compare the logits on, at every token.
        dtype: Type of the saved weights; float32 keeps all digits.
        tolerance: Largest difference of a logit that is accepted.
        revision: Branch, tag or commit of a hub model.
        device: Where to compute.
        allow_pickle_formats: Read weights in `.bin` files too, with torch's restricted unpickler.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        UserError: A model that cannot be loaded, or a difference above `tolerance`.
    """
    import torch

    tokenizer = load_tokenizer(base, revision)
    tokens = tokenizer(list(prompts), padding=True, return_tensors="pt").to(device)
    model: Any = load_adapter(
        load_base(base, revision=revision, device=device, allow_pickle_formats=allow_pickle_formats),
        str(adapter),
        allow_pickle_formats=allow_pickle_formats,
    )
    wide = True
    try:
        before = _logits(model, tokens)
    except RuntimeError:  # parts of the model take float32 at most
        wide, before = False, _logits(model, tokens, wide=False)
    merged = _merged(model, getattr(torch, dtype))
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        shutil.copymode(out / "config.json", path)  # safetensors makes files that only their owner can read
    del model, merged
    after = _logits(load_base(str(out), dtype=dtype, device=device), tokens, wide=wide)
    difference = float((after - before).abs().max())
    # Not `difference > tolerance`: a difference that is no number is no agreement.
    if not difference <= tolerance:
        raise UserError(
            f"--merge: a logit of the merged model differs by {difference:.3g}, more than {tolerance:g}: use --merge_dtype "
            "float32, allow more (--merge_tolerance), or export the adapter only."
        )
    return difference


def _merged(model: Any, dtype: torch.dtype) -> Any:
    """The base of a PEFT model with the adapter in it, in `dtype`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    _untie(model.get_base_model())
    adapted: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in adapted:
        layer.double().merge()
        layer.get_base_layer().to(dtype)
    return model.unload().to(dtype)


def _untie(base: Any) -> None:
    """Give input and output embeddings that share one tensor a tensor each, where an adapter changes one of them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    ends: tuple[Any, Any] = (base.get_input_embeddings(), base.get_output_embeddings())
    if not any(isinstance(layer, BaseTunerLayer) for layer in ends):
        return
    plain: list[Any] = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in ends]
    first, last = plain
    if last is not None and last.weight is first.weight:
        last.weight = nn.Parameter(first.weight.data.clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


def _logits(model: Any, tokens: Any, *, wide: bool = True) -> Any:
    """Logits (N, V) in float64 at the N tokens that are no padding, on the CPU; `wide`: computed in float64, layer by layer."""
    import torch

    kept: dict[Tensor, Tensor] = {}

    def widen(layer: nn.Module, inputs: Any) -> None:
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                kept[tensor] = tensor.data
                tensor.data = tensor.data.double()

    def restore(layer: nn.Module, inputs: Any, output: Any) -> None:
        for tensor, data in kept.items():
            tensor.data = data
        kept.clear()

    layers = list(_layers(model)) if wide else []
    hooks = [layer.register_forward_pre_hook(widen) for layer in layers]
    hooks += [layer.register_forward_hook(restore) for layer in layers]
    try:
        with torch.no_grad():
            return model.eval()(**tokens).logits[tokens["attention_mask"].bool()].double().cpu()
    finally:
        restore(model, None, None)  # what a layer that failed had made wide
        for hook in hooks:
            hook.remove()


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Parts of a model that are computed one after the other and hold all its weights: the layers of its stack, and the rest."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    for part in model.children():
        own = any(True for _ in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
        if own or isinstance(model, nn.ModuleList) or isinstance(part, BaseTunerLayer):
            yield part
        else:
            yield from _layers(part)
