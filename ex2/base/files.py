"""Files that are whole or not there at all, and JSON as EX2 writes and reads it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file or leave the old one as it was: temporary file beside it, then ``os.replace``.

    Raises:
        OSError: The disk refuses; no half-written file is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.mkstemp: its mode 0600 would survive the rename and lock colleagues out of a shared folder.
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that no other process takes: a rename is atomic only within one file system."""
    # Processes of machines that share a file system may have equal ids: hence the random part.
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def to_json(content: Any) -> bytes:
    """Indented JSON in UTF-8, the same bytes for the same content; ValueError for numbers that are not finite."""
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path, twice: str) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.
        twice: What to say of a key ``{!r}`` that an object has twice: JSON readers keep the last one, and say nothing.

    Raises:
        UserError: The file is no JSON, or has a key twice.
    """

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in items:
            if key in content:
                raise UserError(f"{path}: {twice.format(key)}")
            content[key] = value
        return content

    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=once)
    except UserError:  # a ValueError too
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def json_object(line: bytes, keys: Sequence[str], kind: str, **options: Any) -> dict[str, Any]:
    """One line of a file of JSON lines, which holds an object with at least `keys`; `options` go to `json.loads`.

    Raises:
        UserError: No UTF-8, no JSON, no object, or without a key that `kind`, such as "a description", needs.
    """
    try:
        value = json.loads(line.decode("utf-8"), **options)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON ({error}); every line must be one whole JSON object") from None
    if not isinstance(value, dict):
        raise UserError(f"expected a JSON object, found {type(value).__name__}")
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"missing {', '.join(missing)}; {kind} needs {', '.join(keys)}")
    return value
