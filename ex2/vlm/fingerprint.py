"""Digests that are equal exactly when two encoders give the same embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Facts about a checkpoint that leave its embeddings as they are: where it came from and what wrote it. The dtype is
# digested with the weights themselves.
_VOLATILE_KEYS = frozenset(
    {"_name_or_path", "name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "auto_map"}
)


def model_fingerprint(state: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of all weights, and over a description of all the rest.

    Args:
        state: The model's state dict, on any device.
        description: Architecture, preprocessing and tokenizer as plain data (anything ``json`` can write).
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(json.dumps(description, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def stable_config(config: Any) -> Any:
    """A copy of a configuration (nested dicts and lists) without the keys that say nothing about embeddings."""
    if isinstance(config, Mapping):
        return {str(key): stable_config(value) for key, value in config.items() if key not in _VOLATILE_KEYS}
    if isinstance(config, list | tuple):
        return [stable_config(value) for value in config]
    return config


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a transformers tokenizer does to a text, as plain data: vocabulary, rules and special tokens."""
    description: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_input_names": list(tokenizer.model_input_names),
        "special_tokens": {key: str(value) for key, value in tokenizer.special_tokens_map.items()},
        "lower": getattr(tokenizer, "do_lower_case", None),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        # Every call to the tokenizer rewrites these two; the back ends set them anew for each call.
        rules.pop("truncation", None)
        rules.pop("padding", None)
        description["rules"] = rules
    else:
        description["vocabulary"] = tokenizer.get_vocab()
        pieces = getattr(tokenizer, "sp_model", None)
        if pieces is not None:
            description["pieces"] = hashlib.sha256(pieces.serialized_model_proto()).hexdigest()
    return description
