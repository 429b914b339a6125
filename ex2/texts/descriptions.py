"""The Description record and its file format: JSON lines, one object a line, UTF-8.

A text is bound to its class by id and name, never by its position in a file. The same rules hold when a record is
made and when it is read, so that a file written here is always read back, and equal.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import json_lines, json_object, json_text, parse_json, write_atomically

REQUIRED_KEYS = ("dataset", "class_id", "class_name", "question", "text", "model", "seed", "scores")
KNOWN_KEYS = (*REQUIRED_KEYS, "category")


@dataclass(frozen=True)
class Description:
    """One text about one class.

    Attributes:
        dataset: Name of the dataset that the class belongs to.
        class_id: Index of the class in the dataset's class names.
        class_name: Name of the class; a reader checks it against ``class_id``.
        question: The question that the text answers; may be empty.
        text: The description itself; never blank.
        model: What wrote it: a run folder, an adapter or a model id.
        seed: Seed of the sampling.
        scores: Finite numbers by name, e.g. ``{"heldout_cosine": 0.27}``; may be empty.
        category: What the text talks about, once it has been categorised.
        extra: Keys of the JSON object that are none of the above; kept, and written back beside them.

    Raises:
        UserError: A field has the wrong type, the text or class name is blank, or a score is not a finite number.
    """

    dataset: str
    class_id: int
    class_name: str
    question: str
    text: str
    model: str
    seed: int
    scores: dict[str, float]
    category: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("dataset", "class_name", "question", "text", "model"):
            if not isinstance(getattr(self, key), str):
                raise UserError(f"{key} must be a string, found {getattr(self, key)!r}")
        for key in ("class_name", "text"):
            if not getattr(self, key).strip():
                raise UserError(f"{key} is empty")
        for key in ("class_id", "seed"):
            if not isinstance(getattr(self, key), int) or isinstance(getattr(self, key), bool):
                raise UserError(f"{key} must be a whole number, found {getattr(self, key)!r}")
        if self.class_id < 0:
            raise UserError(f"class_id must be 0 or more, found {self.class_id}")
        if self.category is not None and not isinstance(self.category, str):
            raise UserError(f"category must be a string or null, found {self.category!r}")
        if not isinstance(self.scores, dict):
            raise UserError(f"scores must be an object of name: number, found {self.scores!r}")
        for name, score in self.scores.items():
            if not isinstance(score, (int, float)) or isinstance(score, bool) or not math.isfinite(score):
                raise UserError(f"score {name!r} must be a finite number, found {score!r}")
        if taken := sorted(set(self.extra) & set(KNOWN_KEYS)):
            raise UserError(f"extra must not repeat the record's own keys: {', '.join(taken)}")

    def to_json(self) -> str:
        """The record as one line of JSON, without the line end; raises ValueError on non-finite numbers in extra."""
        known = {key: getattr(self, key) for key in KNOWN_KEYS}
        return json_text({**known, **self.extra})


def write_descriptions(path: str | os.PathLike[str], records: Iterable[Description]) -> None:
    """Write all records to ``path``, atomically; an error on the way leaves an earlier file untouched."""
    write_atomically(path, _encode(records))


def append_descriptions(path: str | os.PathLike[str], records: Iterable[Description]) -> None:
    """Append records to ``path`` (made where absent) and flush.

    A half-written last line, as an interrupted run leaves it, is cut off first, so that the file stays readable; it
    is the line that ``read_descriptions(..., allow_partial_last_line=True)`` leaves out.
    """
    path = Path(path)
    data = _encode(records)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        head, newline, tail = file.read().rpartition(b"\n")
        if tail and _is_json(tail):
            data = b"\n" + data
        elif tail:
            file.truncate(len(head) + len(newline))
        file.write(data)
        file.flush()


def read_descriptions(
    path: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    *,
    allow_partial_last_line: bool = False,
) -> list[Description]:
    """Read a file of descriptions in file order; blank lines are skipped, unknown keys kept in ``extra``.

    Args:
        path: JSON lines as ``write_descriptions`` writes them.
        class_names: The dataset's class names; where given, every record's id and name must agree with them.
        allow_partial_last_line: For resuming: leave out a last line that is broken and has no line end, and accept
            a file without descriptions (as ``[]``).

    Raises:
        UserError: File absent, not UTF-8, broken JSON, a missing or malformed key, an empty text, an unknown class,
            no descriptions. The message starts with ``FILE:LINE``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ex2 generate` writes files of descriptions")
    lines = list(json_lines(path))
    records = []
    for number, line in lines:
        if allow_partial_last_line and number == lines[-1][0] and not _is_json(line) and not _ends_with_line(path):
            break
        try:
            record = _decode(line)
            if class_names is not None:
                _check_class(record, class_names)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        records.append(record)
    if not records and not allow_partial_last_line:
        raise UserError(f"{path}:1: the file holds no descriptions; generate some with `ex2 generate`")
    return records


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _encode(records: Iterable[Description]) -> bytes:
    return "".join(record.to_json() + "\n" for record in records).encode("utf-8")


def _is_json(line: bytes) -> bool:
    """Whether a line is complete: cutting a JSON object anywhere before its last brace leaves no valid JSON."""
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _decode(line: bytes) -> Description:
    value = json_object(line, REQUIRED_KEYS, "a description")
    known = {key: value.pop(key) for key in KNOWN_KEYS if key in value}
    return Description(**known, extra=value)


def _check_class(record: Description, class_names: Sequence[str]) -> None:
    found, count = record.class_name, len(class_names)
    if record.class_id < count and class_names[record.class_id] == found:
        return
    if record.class_id >= count:
        problem = f"class_id {record.class_id} ({found!r}) is out of range: the dataset has {count} classes"
        problem += f", 0 to {count - 1}" if count else ""
    else:
        problem = f"class_id {record.class_id}: expected class name {class_names[record.class_id]!r}, found {found!r}"
    by_folded = {name.casefold(): name for name in class_names}
    nearest = get_close_matches(found.casefold(), by_folded, n=1)
    if found in class_names:
        problem += f"; {found!r} is class {list(class_names).index(found)} of the dataset: is the class order another?"
    elif nearest:
        name = by_folded[nearest[0]]
        problem += f"; the nearest class name is {name!r} (class {list(class_names).index(name)})"
    raise UserError(f"{problem}; use the dataset that the descriptions were made for, or correct the line")
