"""Which torch device things run on."""

from __future__ import annotations

from ex2.base.errors import UserError


def torch_device(name: str = "auto") -> str:
    """The torch device that a name means; `auto` is a GPU where there is one.

    Raises:
        UserError: There is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"--device {name} is no device of this machine: use auto, cpu, cuda or cuda:N.") from error
    return name
