"""Which torch device things run on."""

from __future__ import annotations


def torch_device(name: str = "auto") -> str:
    """The torch device that a name means; `auto` is a GPU where there is one."""
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
