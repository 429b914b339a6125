"""The options that a run was begun with, as its config.yaml holds them, checked before anything is done with them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ex2.base.errors import UserError, shortened
from ex2.base.files import read_yaml
from ex2.base.ranges import RANGES, check_ranges
from ex2.options.ex2_options import EX2Config
from ex2.options.kinds import check_kinds, type_hints
from ex2.options.run_options import ALGORITHMS

_OF_LIBRARIES: dict[str, Any] = {
    "model_name_or_path": str | None, "model_revision": str | None, "dtype": str | None, "attn_implementation": str | None,
    "chat_template_kwargs": dict[str, Any] | None, "max_completion_length": int | None, "temperature": float,
    "bf16": bool | None, "load_in_4bit": bool, "load_in_8bit": bool, "seed": int, "learning_rate": float,
}  # fmt: skip
"""Types of those options of TRL and transformers that are used after training: to import these libraries takes seconds."""


SIGNATURE = b"# Resolved options of this"
"""How a config.yaml that EX2 wrote begins: any other program may call its own options so."""


def is_recorded(path: Path) -> bool:
    """Whether a file holds the options of a run."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def recorded_algorithm(path: Path) -> str:
    """The algorithm of the run that such a file is of."""
    with path.open("rb") as file:
        words = file.readline()[len(SIGNATURE) :].decode(errors="replace").lower().split()
    return next((word for word in words if word in ALGORITHMS), "ppo")


def read_settings(path: Path) -> dict[str, Any]:
    """The options in a run's config.yaml.

    Raises:
        UserError: It is damaged, or an option has a value that it cannot have.
    """
    settings = read_yaml(path, f"{path} is damaged: it")
    hints = type_hints((EX2Config,)) | _OF_LIBRARIES
    used = {name: value for name, value in settings.items() if name in hints}
    try:
        check_kinds(used, hints)
        for name, value in used.items():  # text may be a number for a parser, but no parser reads these
            if name in RANGES and isinstance(value, str):
                raise UserError(f"{name}={shortened(value, 600)} is no number.")
        check_ranges(SimpleNamespace(**used), [name for name in used if name in RANGES])
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    return settings
