"""Files that are whole or not there at all, and JSON as EX2 writes and reads it."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import psutil
import yaml

from ex2.base.errors import UserError, one_line

_DIGITS = 300  # of a whole number; Python reads thousands, and what counts or draws with them fails in its own way
_YAML_LENGTH = 2**20
_HALVES = re.compile("[\ud800-\udfff]")  # of characters; Python has bytes that are no UTF-8 so (os.fsdecode)

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}
# Those of torch, safetensors and tokenizers raise errors of their own.
_REFUSAL = re.compile(rf"PytorchStreamWriter|iostream|unexpected pos|\(os error ({'|'.join(map(str, _REFUSED))})\)")


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file or leave the old one as it was: temporary file beside it, then ``os.replace``.

    A link stays, and what it points to is written; a file that is there keeps its mode and, where that is allowed, its owner.

    Raises:
        UserError: What is there is a device, a pipe or a folder, which a file must not take the place of.
        OSError: The disk refuses; no half-written file is left behind.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    before = _ordinary(path)
    _sweep_once(path.parent)
    # Not tempfile.mkstemp: its mode 0600 would survive the rename and lock colleagues out of a shared folder.
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if before is not None:
                # Only root gives files away, and some file systems know no owners or modes.
                with suppress(OSError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                with suppress(OSError):
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def from_home(path: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~NAME` at its beginning as home folders.

    Raises:
        UserError: There is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home folder: write the path out.") from None


def refused_by_disk(error: BaseException) -> bool:
    """Whether a disk took no more: full, over quota, read-only or broken, as Python or the writers of libraries put it."""
    return isinstance(error, OSError) and error.errno in _REFUSED or _REFUSAL.search(str(error)) is not None


def check_writable(path: Path, option: str) -> None:
    """See whether a file can be written to `path`, before work is done for it; nothing is made.

    Raises:
        UserError: There is a device, a pipe or a folder, it lies below a file, or its folder takes no files. The message begins
            with `option`, what the user calls the file.
    """
    target = Path(os.path.realpath(path))
    try:
        _ordinary(target)
        folder = next(folder for folder in target.parents if os.path.lexists(folder))
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({error.strerror}): name another file.") from error
    if not folder.is_dir():
        raise UserError(f"{option} {path} lies below {folder}, which is a file: name another one.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{option} {path}: the folder {folder} takes no files (read-only, or not yours): name another one."
        )


def _ordinary(path: Path) -> os.stat_result | None:
    """The state of the file at `path`, None where there is none; UserError where there is no ordinary file."""
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a device or pipe"
        raise UserError(f"{path} is {kind}: name a file.")
    return state


_HOST = "".join(c if c.isalnum() else "-" for c in platform.node())[:32]


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that no other process takes: a rename is atomic only within one file system.

    `sweep` takes away what a killed process left under it. Not made of the file's name, which may be as long as names can be.
    """
    # Processes of machines that share a file system may have equal ids: hence the host, and the random part.
    return path.with_name(f".ex2-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a name in a folder is one that `temporary_beside` gives."""
    return path.name.startswith(".ex2-") and path.name.endswith(".tmp")


def sweep(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes of this machine left in `folder`."""
    for path in folder.glob(f".ex2-{_HOST}-*-*.tmp"):
        process = path.name.split("-")[-2]
        if process.isdecimal() and int(process) != os.getpid() and not psutil.pid_exists(int(process)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _sweep_once(folder: Path) -> None:
    """At the first file that this process writes into a folder: looking through a cache of thousands at each would take long."""
    sweep(folder)


def read_text(path: Path, where: str) -> str:
    """The text in a file: UTF-8 without byte order marks (also where files were put behind each other), with lines that end with
    a line feed.

    Raises:
        UserError: It cannot be read, or is no UTF-8. The message begins with `where`.
    """
    return decoded(read_bytes(path, where), where).replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path, where: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: It cannot be read. The message begins with `where`.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{where} cannot be read ({getattr(error, 'strerror', error)}).") from error


def decoded(data: bytes, where: str) -> str:
    """Bytes as UTF-8 text without byte order marks at the beginnings of lines.

    Raises:
        UserError: They are no UTF-8. The message begins with `where`.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "no UTF-8"
        raise UserError(
            f"{where} is {kind} text ({error.reason} at byte {error.start}); save the file as UTF-8."
        ) from None
    if 4 * text.count("\0") > len(text):  # UTF-16 without its mark is UTF-8 with a NUL beside each letter
        raise UserError(f"{where} is UTF-16 text; save the file as UTF-8.")
    return text.replace("\n\ufeff", "\n") if "\ufeff" in text else text


def text_lines(path: Path, where: str) -> list[str]:
    """The lines of a text file without their ends.

    Unlike `str.splitlines`, this leaves characters such as U+2028 within a line alone.

    Raises:
        UserError: As `read_text`.
    """
    return read_text(path, where).removesuffix("\n").split("\n")


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers and content of the lines of a file of JSON lines that are not blank."""
    for number, line in enumerate(read_bytes(path, str(path)).split(b"\n"), start=1):
        if line := line.removeprefix(codecs.BOM_UTF8).strip():
            yield number, line


def is_utf8(name: str) -> bool:
    """Whether a name on disk, as Python reads it, is UTF-8."""
    return _HALVES.search(name) is None


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON that is written as UTF-8: a byte of a file's name that is none stands as a code point, since readers refuse halves.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALVES.sub(lambda half: f"[U+{ord(half[0]):04X}]", text)


def to_json(content: Any) -> bytes:
    """Indented JSON in UTF-8, the same bytes for the same content; ValueError for numbers that are not finite."""
    return (json_text(content, indent=2) + "\n").encode()


def parse_json(data: bytes, **options: Any) -> Any:
    """The content of JSON in UTF-8, a byte order mark allowed; `options` go to `json.loads`.

    Raises:
        ValueError: It is no JSON, or holds what nothing that EX2 reads needs and something later would trip over: NaN, numbers
            that are not finite or have hundreds of digits, thousands of brackets, halves of characters.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_short, **options)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start}); save the file as UTF-8") from None
    except UnicodeEncodeError:
        raise ValueError("broken JSON (half a character: a lone surrogate)") from None
    except RecursionError:
        raise ValueError("broken JSON (nested too deeply)") from None
    except UserError:  # a ValueError too, of a hook in `options`
        raise
    except ValueError as error:
        raise ValueError(f"broken JSON ({error})") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _short(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"the number {digits[:20]}... has {len(digits)} digits")
    return int(digits)


@contextmanager
def shaped_as_written(path: Path, cure: str = "") -> Iterator[None]:
    """Say of a file that EX2 wrote that it is damaged, where its content is not of the shape that it was written in.

    Raises:
        UserError: With the file, what does not fit, and `cure`, a sentence.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {one_line(error)}). {cure}".rstrip()) from error


def read_json(path: Path, twice: str = "the key {!r} is there twice") -> Any:
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
        return parse_json(read_bytes(path, str(path)), object_pairs_hook=once)
    except UserError:  # a ValueError too
        raise
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def json_object(line: bytes, keys: Sequence[str], kind: str) -> dict[str, Any]:
    """One line of a file of JSON lines, which holds an object with at least `keys`.

    Raises:
        UserError: No JSON, no object, or without a key that `kind`, such as "a description", needs.
    """
    try:
        value = parse_json(line)
    except ValueError as error:
        raise UserError(f"{error}; every line must be one whole JSON object") from None
    if not isinstance(value, dict):
        raise UserError(f"expected a JSON object, found {type(value).__name__}")
    if missing := [key for key in keys if key not in value]:
        raise UserError(f"missing {', '.join(missing)}; {kind} needs {', '.join(keys)}")
    return value


class _Loader(yaml.SafeLoader):
    """YAML without what makes small files large or hides an option: aliases, and a name that is there twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1}: write the value of *{self.peek_event().anchor} out"
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > _DIGITS:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")
        return int(super().construct_yaml_int(node))

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice[0]} is there twice")
        return super().construct_mapping(node, deep=deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The names and values in a YAML file.

    Raises:
        UserError: It cannot be read, or holds something else. The message begins with `where`.
    """
    text = read_text(path, where)
    try:
        if len(text) > _YAML_LENGTH:
            raise ValueError(f"{len(text)} characters are no list of options")
        content = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise UserError(f"{where} is no valid YAML: it is nested too deeply") from None
    except (ValueError, TypeError, yaml.YAMLError) as error:  # TypeError: a list as a name
        raise UserError(f"{where} is no valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{where} must hold option: value lines.")
    return content
