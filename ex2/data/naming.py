"""What classes are called: names given in a file, WordNet ids resolved; what is no name is not asked about.

A question such as "Describe a n02123045." trains and costs as much as one about a cat, and nothing else would say that it is
senseless. So each set that people name themselves goes through `with_names`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import from_home, read_json, text_lines
from ex2.base.shown import some_of
from ex2.data.labelled import LabelledImages, fingerprint_of, logger
from ex2.data.names import class_name_of, split_of, synset_names

_CURE = "Give names with --class_names FILE: one a line in the order of the classes, or lines `{} name`."
_WORDNET_ID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"(\d+)\. ?(?=\D)|(\d+)[ -](?=[^\d\W])")
_NO_NAME = re.compile(
    r"[\W\d_]+"  # 0, 007, -1
    r"|(class|category|label|cls|cluster|group|id|folder|dir|type|target|species|taxon|fold|part|batch|subset|n|q)[ #:.-]*\d+"
    r"|true|false|yes|no|nan|none|null|unknown|others?|misc|(un)?labell?ed"
    r"|images?|imgs?|jpegimages|data|dataset|labels?|annotations?|masks?"  # what else folders hold
    r"|(?=\w*\d)[0-9a-f]{8,}|[0-9a-f]{8}-[0-9a-f-]{20,}"  # hashes
    r"|/?[mg][ /.]0\w+",  # ids of Open Images
    re.IGNORECASE,
)


def with_names(images: LabelledImages, file: str | None, spec: str) -> LabelledImages:
    """A set whose classes are called as in `file`, or as they are, with WordNet ids resolved and running numbers left out.

    Args:
        images: The set as its folders or labels call the classes.
        file: File of class names, None for none.
        spec: The spec with the file.

    Raises:
        UserError: The file does not fit the classes; without a file, the classes are called like splits, or most have no name.
    """
    if file is not None:
        return _renamed(images, _read_names(from_home(file), images.class_names), spec)
    keys = images.class_names
    folded: dict[str, str] = {}
    for key in keys:
        if folded.setdefault(key.casefold(), key) != key:
            raise UserError(
                f"dataset '{spec}': {folded[key.casefold()]!r} and {key!r} differ by capitals only: write one class in one way, "
                "or give names with --class_names FILE."
            )
    names = _without_numbers(_resolved(keys, spec))
    option = f"dataset '{spec}'"
    if all(split_of(name) for name in names):
        raise UserError(
            f"{option}: its classes would be {some_of(names)}, which are splits: put a folder for each class into them "
            "(DIR/SPLIT/CLASS/IMAGE), or give names with --class_names FILE."
        )
    nameless = list(names) if _only_numbered(names) else [name for name in names if _NO_NAME.fullmatch(name)]
    if 2 * len(nameless) > len(names) or any(_WORDNET_ID.fullmatch(name) for name in nameless):
        raise UserError(
            f"{option}: {len(nameless)} of {len(names)} classes have no names but numbers, ids and the like "
            f"({some_of(nameless, 3)}). " + _CURE.format(some_of(nameless[:1]))
        )
    if nameless:
        logger.warning(
            "%s: are these names of classes? %s. %s", option, some_of(nameless), _CURE.format(some_of(nameless[:1]))
        )
    return images if names == keys else _renamed(images, names, spec)


def _renamed(images: LabelledImages, names: Sequence[str], spec: str) -> LabelledImages:
    return replace(
        images, name=spec, class_names=tuple(names), fingerprint=fingerprint_of([images.fingerprint, list(names)])
    )


def _resolved(keys: tuple[str, ...], spec: str) -> tuple[str, ...]:
    """WordNet ids, alone or beside a name (``n02085620-Chihuahua``), as names; other names as they are."""
    tails = tuple(re.sub(r"^n\d{8}[- ]+|[- ]+n\d{8}$", "", key) for key in keys)
    if tails != keys and len(set(tails)) == len(keys):
        return tails
    ids = [key for key in keys if _WORDNET_ID.fullmatch(key)]
    if not ids:
        return keys
    from timm.data import ImageNetInfo

    known: Any = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    synonyms = {key: known[key] for key in ids if key in known}
    logger.warning("dataset %s: %d class folders are WordNet ids; they are called as in WordNet.", spec, len(synonyms))
    names = synset_names(synonyms)
    return tuple(names.get(key, key) for key in keys)


def _only_numbered(names: tuple[str, ...]) -> bool:
    """Whether several names are one word and the numbers from 0 or 1 on: c0, c1, c2."""
    found = [re.fullmatch(r"(\D*)(\d+)", name) for name in names]
    numbers = sorted(int(match[2]) for match in found if match)
    return len({match and match[1] for match in found}) == 1 < len(names) and numbers in _running(len(names))


def _running(count: int) -> tuple[list[int], list[int]]:
    """The numbers 0 ... count - 1, and 1 ... count."""
    return list(range(count)), list(range(1, count + 1))


def _without_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the numbers that only sort them, before the names of all classes.

    Those are 1 ... C or 0 ... C - 1. Where some classes of a set are missing, numbers with a dot (``257.clutter``), or of one
    width with zeros before them (``00040 Animalia``), are such too; years and models are not.
    """
    found = [match for name in names if (match := _NUMBERED.match(name))]
    if len(found) < len(names):
        return names
    digits = [match[1] or match[2] for match in found]
    dotted = all(match[1] for match in found)
    padded = len(set(map(len, digits))) == 1 and any(number[0] == "0" != number for number in digits)
    if not (sorted(map(int, digits)) in _running(len(names)) or dotted or padded):
        return names
    plain = tuple(match.string[match.end() :].strip() for match in found)
    return plain if len(set(plain)) == len(names) and all(plain) else names


def require_names(path: Path) -> None:
    """Raise UserError where there is no file of class names."""
    if not os.path.isfile(path):  # which takes names of any length
        raise UserError(
            f"class_names {path}: no such file; write one name a line, or lines with a class's folder or label and its name."
        )


def _read_names(path: Path, keys: Sequence[str]) -> list[str]:
    """The names in a file, in the order of `keys`: what the set itself calls its classes.

    Raises:
        UserError: No such file; a class without a name; more names than classes.
    """
    require_names(path)
    where = f"class_names {path}"
    if path.suffix == ".json":
        content = read_json(path, "the class {!r} is there twice.")
        names = list(content.values()) if isinstance(content, dict) else content
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: expected a list of names, or an object of folders or labels and names.")
        lines = [f"{key}\t{name}" for key, name in content.items()] if isinstance(content, dict) else names
    else:
        lines = [line.strip() for line in text_lines(path, where)]
        lines = [line for line in lines if line and not line.startswith("#")]
    by_key = _by_key(lines, keys)
    if by_key is not None:
        if missing := [key for key in keys if key not in by_key]:
            raise UserError(f"{where}: {len(missing)} of {len(keys)} classes have no name: {some_of(missing)}.")
        return [by_key[key] for key in keys]
    if len(lines) != len(keys):
        raise UserError(
            f"{where}: {len(lines)} names for {len(keys)} classes ({some_of(keys, 3)}): write one name a line in the order of "
            "the classes, or lines with a class's folder or label and its name."
        )
    numbers = all(re.fullmatch(r"-?\d+", key) for key in keys)  # then 10 comes after 9, whatever the order of folders
    name_of = dict(zip(sorted(keys, key=int) if numbers else keys, lines, strict=True))
    return [class_name_of(name_of[key]) for key in keys]


def _by_key(lines: Sequence[str], keys: Sequence[str]) -> dict[str, str] | None:
    """Names by class, where every line begins with one of the classes; None where lines are names alone."""
    found: dict[str, str] = {}
    for line in lines:
        key = next((key for key in _beginnings(line) if class_name_of(key) in keys), None)
        if key is None or not (name := line[len(key) :].strip(" \t,;:=")):
            return None
        found[class_name_of(key)] = class_name_of(name)
    return found or None


def _beginnings(line: str) -> list[str]:
    """What may be the key at the beginning of a line, the longest first."""
    ends = [match.start() for match in re.finditer(r"[\s,;:=]+", line)]
    return [line[:end] for end in reversed(ends)]
