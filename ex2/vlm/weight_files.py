"""How images and activations are to be computed for open_clip weights that come as a file, without the tag that would say so.

open_clip takes its defaults then: OpenAI's preprocessing, and no QuickGELU. Many models' embeddings are wrong with the one or the
other, and nothing fails. So what is not said is found out: by the file's hash, which many addresses of weights hold, or by what
all published weights of the model share. What is left open is said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import open_clip
import torch
from safetensors import safe_open

from ex2.base.errors import UserError
from ex2.base.files import sha256
from ex2.base.weights import NUMBERS, SAFE

logger = logging.getLogger("ex2")

_PREPROCESSING = {
    "mean": "image_mean", "std": "image_std", "interpolation": "image_interpolation", "resize_mode": "image_resize_mode",
}  # fmt: skip
"""Keys of open_clip's pretrained configurations, and the arguments that they become."""

_SWITCH = {"true": True, "false": False}


def split_query(location: str) -> tuple[str, dict[str, str]]:
    """``MODEL/FILE?pretrained_cfg=TAG&quickgelu=true`` without its query, and the query."""
    before, _, query = location.rpartition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return (before, options) if before and "=" in query else (location, {})


def options_for_file(model: str, file: Path, said: dict[str, str], spec: str) -> dict[str, Any]:
    """Arguments of `open_clip.create_model_from_pretrained` for weights in a file.

    Args:
        model: Name of a built-in model.
        file: The weights.
        said: What the spec says: `pretrained_cfg`, a tag of the model, and `quickgelu`.
        spec: The spec, for messages.

    Raises:
        UserError: An unknown option or tag.
    """
    if unknown := sorted(said.keys() - {"pretrained_cfg", "quickgelu"}):
        raise UserError(f"vlm {spec!r}: unknown option {unknown[0]!r}: there are pretrained_cfg and quickgelu")
    switch = said.get("quickgelu", "true").lower()
    if switch not in _SWITCH:
        raise UserError(f"vlm {spec!r}: quickgelu={said['quickgelu']} is neither true nor false")
    built_in = bool((open_clip.get_model_config(model) or {}).get("quick_gelu", False))
    if built_in and not _SWITCH[switch]:
        raise UserError(
            f"vlm {spec!r}: {model} has QuickGELU: for weights without, use {model.removesuffix('-quickgelu')}"
        )
    tags = {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}
    tag = said["pretrained_cfg"] if "pretrained_cfg" in said else _tag_by_hash(file, tags)
    if "pretrained_cfg" in said and tag not in tags:
        if tag != "openai":
            raise UserError(
                f"vlm {spec!r}: pretrained_cfg={tag} is no tag of {model}: there are "
                f"{', '.join(tags) or 'none, but `openai` is known'}"
            )
        tags = {"openai": open_clip.get_pretrained_cfg("ViT-L-14", "openai")}
    known = [tags[tag]] if tag else list(tags.values())
    ways = _distinct(tuple(tags.get(key) for key in _PREPROCESSING) for tags in known)
    gelus = _distinct(bool(tags.get("quick_gelu")) for tags in known)
    options: dict[str, Any] = {}
    if len(ways) == 1:
        options = {_PREPROCESSING[key]: value for key, value in zip(_PREPROCESSING, ways[0], strict=True) if value}
    gelu = built_in or (_SWITCH[switch] if "quickgelu" in said else gelus == [True])
    unclear = ["preprocessing"] * (len(ways) != 1)
    unclear += ["QuickGELU"] * (len(gelus) > 1 and not built_in and "quickgelu" not in said)
    if unclear:
        says = [f"?pretrained_cfg={name}" for name in sorted(tags)[:3] or ["openai"]]
        says += [f"?quickgelu={str(not gelu).lower()}"] * ("QuickGELU" in unclear or not tags)
        logger.warning(
            "vlm %s: a file does not say what its weights were trained with, and published weights of %s %s: taken are %s "
            "preprocessing and %sQuickGELU. Say what holds: %s.",
            spec, model, f"differ in {' and '.join(unclear)}" if tags else "are not known",
            "their" if len(ways) == 1 else "OpenAI's", "" if gelu else "no ", " or ".join(says),
        )  # fmt: skip
    return options | {"force_quick_gelu": gelu}


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _tag_by_hash(file: Path, tags: dict[str, dict[str, Any]]) -> str | None:
    """The tag whose address holds the file's SHA-256: whole in OpenAI's, the first eight digits in open_clip's."""
    hashes = {
        tag: re.findall(r"[0-9a-f]{64}|(?<=-)[0-9a-f]{8}(?=\.pt$)", cfg.get("url") or "") for tag, cfg in tags.items()
    }
    if not any(hashes.values()):
        return None
    digest = sha256(file)
    return next((tag for tag, own in hashes.items() if own and digest.startswith(own[-1])), None)


def check_positions(model: Any, file: Path, where: str) -> None:
    """See that weights in a file have the positions of the model that they were loaded into.

    open_clip stretches or squeezes those of another image size or context length until they fit, and the embeddings are wrong.

    Args:
        model: The loaded model.
        file: The weights.
        where: The user's option and its value, for messages.

    Raises:
        UserError: The file is of a model with other positions.
    """
    own = model.state_dict()
    for name, shape in _stored_shapes(file).items():
        weight = own.get(name, own.get(f"text.{name}"))
        if name.endswith("positional_embedding") and weight is not None and shape[0] != weight.shape[0]:
            kind = "images of another size" if name.startswith("visual.") else "texts of another length"
            raise UserError(
                f"{where}: {file} is of a model for {kind} ({name}: {shape[0]} positions, here {weight.shape[0]}): name the "
                "model that it is of"
            )


def _stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights in a file that open_clip has read, by name, without reading them again."""
    if file.suffix == SAFE:
        with safe_open(file, framework="pt") as stored:
            shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    elif file.suffix in NUMBERS:  # of big_vision, which open_clip lays into the model itself
        shapes = {}
    else:
        state = torch.load(file, map_location="meta", weights_only=True)
        shapes = {name: tuple(value.shape) for name, value in state.get("state_dict", state).items()}
    return {name.removeprefix("module."): shape for name, shape in shapes.items()}
