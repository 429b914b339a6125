"""LoRA adapters of a policy: loaded from a folder or the hub, made anew, and what cannot be adapted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError, reason
from ex2.base.files import read_json
from ex2.base.hub import holds_file, require_repository
from ex2.base.weights import pickle_refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import ModelConfig

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Files that PEFT keeps an adapter's weights in, the usual one first."""


def load_adapter(
    model: PreTrainedModel, adapter: str, *, trainable: bool = False, allow_pickle_formats: bool = False
) -> Any:
    """Put the LoRA adapter in folder (or hub id) `adapter` on `model`.

    Raises:
        UserError: There is no adapter, it does not fit, or has its weights in a format that can hold code.
    """
    from peft import PeftModel

    config = adapter_config(adapter)
    check_adapter_weights(adapter, f"The adapter {adapter}", allow_pickle_formats)
    try:
        return PeftModel.from_pretrained(model, adapter, config=config, is_trainable=trainable)
    except Exception as error:  # as each kind of model and of damage has it
        raise UserError(f"The adapter {adapter} could not be loaded: {reason(error)}") from error


def check_adapter_weights(adapter: str, where: str, allow_pickle_formats: bool) -> None:
    """Raise UserError, beginning with `where`, for an adapter (folder or hub id) whose weights are a pickle; nothing is read."""
    safe, pickled = ADAPTER_WEIGHTS
    folder = Path(adapter)
    has = (lambda name: (folder / name).is_file()) if folder.is_dir() else partial(holds_file, adapter)
    if not allow_pickle_formats and not has(safe) and has(pickled):
        raise pickle_refused(where, str(folder / pickled) if folder.is_dir() else pickled)


def adapter_config(adapter: str) -> Any:
    """The configuration of the adapter in folder (or hub id) `adapter`.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    from peft import PeftConfig

    if not Path(adapter).is_dir():
        require_repository(adapter, f"adapter {adapter}", "use a local folder", "adapter_config.json")
    elif not (Path(adapter) / "adapter_config.json").is_file():
        raise UserError(f"{adapter} holds no adapter: adapter_config.json is missing.")
    else:  # PEFT says what is wrong with it in several lines, or not at all
        content = read_json(Path(adapter) / "adapter_config.json")
        if not isinstance(content, dict) or not isinstance(content.get("peft_type"), str):
            raise UserError(f"{adapter} holds no adapter: adapter_config.json does not say of which kind it is.")
    try:
        return PeftConfig.from_pretrained(adapter)
    except Exception as error:
        raise UserError(f"The adapter {adapter} could not be loaded: {reason(error)}") from error


def lora_config(model_config: ModelConfig) -> Any:
    """The LoRA configuration of a fresh adapter, from TRL's option names."""
    from peft import LoraConfig

    targets = model_config.lora_target_modules
    if isinstance(targets, str) and targets.isidentifier():
        targets = [targets]  # TRL unpacks a list of one; PEFT would take a bare name for a pattern of full paths
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=model_config.lora_r,
        lora_alpha=model_config.lora_alpha,
        lora_dropout=model_config.lora_dropout,
        target_modules=targets,
        use_rslora=model_config.use_rslora,
        use_dora=model_config.use_dora,
        bias="none",
    )


def embeddings_adapted(model: Any) -> bool:
    """Whether the adapter of a PEFT model changes the token embeddings or the LM head."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(
        isinstance(layer, BaseTunerLayer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    )


def linear_layers(model: PreTrainedModel) -> list[str]:
    """What the linear layers of a model are called within its parts, each name once; the LM head is left out."""
    from torch import nn

    head = model.get_output_embeddings()
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def check_lora_targets(model_config: ModelConfig, model: PreTrainedModel) -> None:
    """Raise UserError where LoRA has nothing to adapt in `model`: TRL and PEFT would find out only after the sampling."""
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

    targets, kind = model_config.lora_target_modules, model.config.model_type
    if targets is None and kind not in DEFAULTS:
        raise UserError(
            f"lora_target_modules is needed: PEFT has no default for {kind} models. Name some of their linear layers "
            f"({' '.join(linear_layers(model))}), or all-linear."
        )
    if targets is None or targets == "all-linear":
        return
    config = lora_config(model_config)
    names = [name for name, _ in model.named_modules()]
    if not any(check_target_module_exists(config, name) for name in names):
        leaves = sorted(
            {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")}
        )
        raise UserError(f"lora_target_modules={targets} names no part of the model, which has {', '.join(leaves)}.")


def check_head(adapted: Any, where: str) -> None:
    """Raise UserError, beginning with `where`, where a PEFT model adapts the LM head: TRL multiplies with it directly."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            f"{where} adapts the LM head, which TRL's trainers multiply with directly: it would never be trained. Name other "
            "parts; all-linear means all linear layers but that one."
        )
