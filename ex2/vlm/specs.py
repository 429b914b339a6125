"""Vision-language models by their specs: ``load_vlm("hf:openai/clip-vit-base-patch32")``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.hub import fetched_before, looks_like_path
from ex2.vlm.base import VLM

if TYPE_CHECKING:
    import torch

    from ex2.vlm.dual_encoder import DualEncoder

_FORMS = (
    ("pictogram", "embedded dual encoder of pictograms; no hub, no network"),
    ("hf:ID_OR_DIR", "transformers dual encoder (CLIP, ALIGN, SigLIP, SigLIP 2): hub repository or local folder"),
    (
        "open_clip:MODEL/PRETRAINED",
        "open_clip's built-in model with pretrained weights, by tag, or by file: ?pretrained_cfg=TAG&quickgelu=true says which",
    ),
    ("open_clip:hf-hub:ID", "open_clip model from a hub repository"),
    ("open_clip:local-dir:DIR", "open_clip model from a local folder"),
)
_DTYPES = ("float32", "bfloat16", "float16")


def list_vlms() -> list[tuple[str, str]]:
    """Forms of a VLM's spec, each with one line about it."""
    return list(_FORMS)


def check_spec(spec: str) -> None:
    """Raise UserError where a spec has none of the forms of `list_vlms`, or names a folder that is not there."""
    kind, _, rest = spec.partition(":")
    if not (spec == "pictogram" or (kind in ("hf", "open_clip") and rest)):
        raise UserError(_unknown_spec(spec))
    local = rest.removeprefix("local-dir:")
    if kind == "hf" and from_home(local).is_file():
        raise UserError(f"vlm {spec!r}: {local!r} is a file: name its folder, with configuration and tokenizer")
    if (local != rest or (kind == "hf" and looks_like_path(rest))) and not from_home(local).is_dir():
        raise UserError(f"vlm {spec!r}: there is no folder {local!r}: check the path")


def source_of_vlm(spec: str) -> str | None:
    """Where the weights of a VLM would be fetched from; None where they are on this machine, or could not be fetched either."""
    kind, _, location = spec.partition(":")
    if kind == "hf":
        return None if looks_like_path(location) or Path(location).is_dir() else _on_hub(location)
    if kind != "open_clip" or location.startswith("local-dir:"):
        return None
    if location.startswith("hf-hub:"):
        return _on_hub(location.removeprefix("hf-hub:"))
    from ex2.vlm.openclip import published_at

    repo_id, url = published_at(spec)
    return _on_hub(repo_id) if repo_id else url


def _on_hub(repo_id: str) -> str | None:
    return None if fetched_before(repo_id) else f"the hub's model {repo_id}"


def load_vlm(
    spec: str, device: str | torch.device = "cpu", dtype: str = "float32", *, allow_pickle_formats: bool = False
) -> VLM:
    """Load a VLM in eval mode.

    Args:
        spec: One of the forms of `list_vlms`.
        device: Torch device to encode on.
        dtype: ``float32``, ``bfloat16`` or ``float16``: type of weights and computation. Embeddings are float32 always.
        allow_pickle_formats: Read weights in ``.bin``, ``.pt`` or ``.pth`` files too, with torch's restricted unpickler.

    Raises:
        UserError: No such form, device or dtype; weights in a format that can hold code; whatever is wrong with the model itself.
    """
    check_spec(spec)
    if dtype not in _DTYPES:
        raise UserError(f"vlm_dtype {dtype!r} is none of {', '.join(_DTYPES)}")
    torch_device = _checked_device(device)
    import torch

    from ex2.vlm.self_test import check_vlm

    # A cast, because back ends compute `fingerprint` when it is first read: mypy wants a plain attribute.
    vlm = cast(VLM, _load(spec.partition(":")[0], spec, torch_device, getattr(torch, dtype), allow_pickle_formats))
    check_vlm(vlm, getattr(torch, dtype))
    return vlm


def _load(kind: str, spec: str, device: torch.device, dtype: torch.dtype, allow_pickle_formats: bool) -> DualEncoder:
    # Imported here: whoever needs one back end does not wait for the others' libraries.
    if kind == "hf":
        from ex2.vlm.hf import load_hf

        return load_hf(spec, device, dtype, allow_pickle_formats)
    if kind == "open_clip":
        from ex2.vlm.openclip import load_open_clip

        return load_open_clip(spec, device, dtype, allow_pickle_formats)
    from ex2.vlm.pictogram import load_pictogram

    return load_pictogram(device, dtype)


def _checked_device(device: str | torch.device) -> torch.device:
    import torch

    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"vlm device {str(device)!r} is no torch device: use `cpu` or `cuda`") from error
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        raise UserError(f"vlm device {str(device)!r} is not there, PyTorch sees {seen} GPUs: use `cpu` or another")
    return checked


def _unknown_spec(spec: str) -> str:
    forms = ", ".join(f"`{form}`" for form, _ in _FORMS)
    kind = spec.partition(":")[0].lower().replace("-", "_")
    names = {"pictogram": "pictogram", "pictograms": "pictogram"}
    names |= dict.fromkeys(("hf", "huggingface", "transformers"), "hf:ID_OR_DIR")
    names |= dict.fromkeys(("open_clip", "openclip"), "open_clip:MODEL/PRETRAINED")
    nearest = get_close_matches(kind, names, n=1)
    hint = f"did you mean `{names[nearest[0]]}`? " if nearest else ""
    if ":" not in spec and "/" in spec:
        hint = f"did you mean `hf:{spec}` or `open_clip:{spec}`? "
    return f"vlm {spec!r} is not known: {hint}Use one of {forms}"
