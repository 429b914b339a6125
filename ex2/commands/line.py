"""The command line as people type it: dashes for underscores, names that another command has for the same thing, slips.

What only needs the line itself and a look at the disk is said here, before any heavy library is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from ex2.base.errors import UserError

SAME = {"output_dir": "out", "max_completion_length": "max_new_tokens", "eval_batch_size": "batch_size"}
"""What training calls what the other commands call otherwise."""

_WRITTEN_BY = {
    "descriptions": "`ex2 generate` writes files of descriptions",
    "pairs": "`ex2 describe-pairs` writes files of pair descriptions",
    "files": "`ex2 describe-pairs` writes files of pair descriptions",
    "base": "`ex2 generate --base` writes files of descriptions",
}
"""Options that name files to read, and where these come from."""


def underscored(line: Sequence[str]) -> list[str]:
    """Options with underscores for dashes, which they never have.

    Raises:
        UserError: A value that nothing can be called, in no option of any command.
    """
    if any("\0" in part for part in line):
        raise UserError("The command line has a NUL character in it: no file, model or dataset is called so.")
    found = list(line)
    for i, part in enumerate(found):
        if part == "--":
            break
        if part.startswith("--"):
            name, equals, value = part.partition("=")
            if value == "--":  # which argparse takes for no value at all
                raise UserError(f"{name}: -- is no value.")
            found[i] = "--" + name[2:].replace("-", "_") + equals + value
    return found


def with_known_names(line: Sequence[str], names: set[str], same: Mapping[str, str] = SAME) -> list[str]:
    """Options under the name that a command with the options `names` has for them; what was changed is noted."""
    found = list(line)
    for i, part in enumerate(found):
        name, equals, value = part.partition("=")
        own = same.get(name[2:])
        if name.startswith("--") and name[2:] not in names and own in names:
            print(f"note: {name} is --{own} here.", file=sys.stderr)
            found[i] = f"--{own}{equals}{value}"
    return found


def check_inputs(arguments: argparse.Namespace) -> None:
    """Raise UserError for files that are not there, and specs of VLMs and datasets that cannot be any."""
    for name, written_by in _WRITTEN_BY.items():
        value = getattr(arguments, name, None)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not path.exists():
                raise UserError(f"{path}: no such file; {written_by}")
    vlm, dataset = getattr(arguments, "vlm", None), getattr(arguments, "dataset", None)
    if isinstance(vlm, str) and vlm != "none":
        from ex2.vlm.specs import check_spec

        check_spec(vlm)
    if isinstance(dataset, str):
        from ex2.data.specs import check_dataset

        check_dataset(dataset)


def nearest(word: str, known: Sequence[str]) -> str:
    """A question after the nearest known word, with a blank before it; nothing where none is near."""
    found = get_close_matches(word, known, n=1)
    return f" Did you mean {found[0]}?" if found else ""
