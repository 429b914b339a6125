"""Multiplying in bfloat16 on processors that do so natively: about twice as fast there, slower elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (benchmarks/RESULTS.md)."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text(encoding="utf-8") if path.is_file() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def fast_matmul(device: str | torch.device, *, exact: bool = False) -> AbstractContextManager[Any]:
    """Context in which float32 models on such a processor multiply in bfloat16; one that changes nothing elsewhere.

    Args:
        device: Torch device that the model is on.
        exact: Change nothing here either.
    """
    import torch

    on_cpu = torch.device(device).type == "cpu"
    return torch.autocast("cpu", torch.bfloat16, enabled=on_cpu and not exact and cpu_has_bf16())
