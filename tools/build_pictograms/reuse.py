"""Step ``reuse``: take the image tower of an earlier export instead of training one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from tools.build_pictograms.common import Work, sha256
from tools.build_pictograms.rasterise import read_json
from tools.build_pictograms.train import read_log

RECORD = Path(__file__).resolve().parent / "image_tower.json"
"""What ``head``, ``finetune`` and ``refit`` measured when the shipped trunk was trained."""


def reuse(work: Work, out: Path) -> None:
    """Write the exported image tower and its training record as if ``head``, ``finetune`` and ``refit`` had run.

    The trunk is that of the record; the head is the exported one, which has already been trained on descriptions.
    """
    from safetensors.torch import load_file

    path = out / "vlm" / "image" / "visual.safetensors"
    weights = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    scale = read_json(out / "vlm" / "open_clip_config.json")["model_cfg"]["init_logit_scale"]
    torch.save({"visual": weights, "log_scale": scale, "setting": "reused"}, work.final)
    work.log.write_text(json.dumps(read_log(work) | read_json(RECORD), indent=1), encoding="utf-8")
    print(f"image tower of {path} (SHA-256 {sha256(path)[:12]}), logit scale {math.exp(scale):.1f}")
