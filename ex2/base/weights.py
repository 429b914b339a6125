"""Which files weights are read from: safetensors, which holds numbers only; pickles, which can hold code, where the user asks.

Their restricted reader is torch's, which builds tensors and plain containers and calls nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError

SAFE = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NUMBERS = (SAFE, ".npz", ".npy")
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt")  # of the Trainer, in folders of models too
_LFS_POINTER = b"version https://git-lfs"


def check_weights(path: Path, where: str, allow_pickle_formats: bool) -> None:
    """Raise UserError, beginning with `where`, for weights in a pickle (a file, or a folder without others) or not there yet.

    A clone without Git LFS leaves pointers in the place of weights; no weight is read.
    """
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.suffix in (SAFE, *PICKLES) and file.name not in _NO_WEIGHTS and file.is_file():
            with file.open("rb") as stream:
                begin = stream.read(len(_LFS_POINTER))
            if begin == _LFS_POINTER:
                raise UserError(
                    f"{where}: {file} is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`."
                )
            if not begin:
                raise UserError(f"{where}: {file} is empty: fetch it again.")
    if allow_pickle_formats:
        return
    if path.is_dir():
        files = sorted(path.iterdir())
        if any(file.suffix == SAFE for file in files):
            return  # which transformers prefers
        weights = [file for file in files if file.suffix in PICKLES and file.name not in _NO_WEIGHTS]
    else:
        weights = [] if path.suffix in NUMBERS else [path]  # whatever is not known for its ending is read as a pickle
    if weights:
        raise pickle_refused(where, str(weights[0]))


def pickle_refused(where: str, what: str) -> UserError:
    """The error for weights in a pickle."""
    return UserError(
        f"{where}: {what} is a pickle, a format that can hold code: convert it to {SAFE}, or have it read by torch's restricted "
        "unpickler (--allow_pickle_formats true)."
    )


def transformers_options(allow_pickle_formats: bool) -> dict[str, Any]:
    """What `from_pretrained` of transformers is told about formats."""
    # Else transformers asks a robot on the hub to convert a model without safetensors, and loads what that has made.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    return {} if allow_pickle_formats else {"use_safetensors": True}


def says_no_safetensors(error: BaseException) -> bool:
    """Whether transformers could not load a model because it has weights in other formats only."""
    return isinstance(error, OSError) and "cannot be loaded with `safetensors`" in str(error)
