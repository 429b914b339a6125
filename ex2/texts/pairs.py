"""Sentences that contrast two classes, and their file: the format of FuDD (Esfandiarpoor and Bach, ICLR 2024).

    {"i_j": {"classes": [i, j], "prompt_pairs": [{"attr_type": "color", "prompt_pair": ["about i", "about j"]}]}}

The numbers are positions in a JSON list of class names, which lies beside the file: `pairs.classes.json` for `pairs.json`, or, as
FuDD's own, `pairs_class_names.json`. Classes are matched with a dataset's by name (`ex2.texts.name_matching`), so a list in
another order is read as well. Equal names can only be told apart by position: they are accepted where both lists are equal
throughout, and refused otherwise.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import read_json, write_atomically
from ex2.base.shown import some_of
from ex2.texts.descriptions import Description
from ex2.texts.name_matching import match_names
from ex2.texts.questions import attribute_of

_TWICE = "the key {!r} is there twice: merge the two"
_KEY = re.compile(r"(0|[1-9][0-9]*)_(0|[1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class PairText:
    """Two sentences that contrast two classes in one attribute.

    Attributes:
        attribute: What they compare, e.g. `color`.
        texts: The sentence about the first class of the pair, and the one about the second; neither is blank.

    Raises:
        UserError: A field has the wrong type, or a sentence is blank.
    """

    attribute: str
    texts: tuple[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.attribute, str):
            raise UserError(f"attr_type must be a string, found {self.attribute!r}")
        if len(self.texts) != 2 or not all(isinstance(text, str) for text in self.texts):
            raise UserError(f"prompt_pair must be two sentences, found {self.texts!r}")
        if not all(text.strip() for text in self.texts):
            raise UserError(f"a sentence is empty in {list(self.texts)!r}: write both, or leave the entry out")


@dataclass(frozen=True)
class PairTexts:
    """The sentences of some pairs of classes; not every pair needs any.

    Attributes:
        class_names: Names of all C classes.
        pairs: Sentences of each pair (i, j), i < j, positions in `class_names`.

    Raises:
        UserError: A pair is out of order or out of range, or has no sentences.
    """

    class_names: tuple[str, ...]
    pairs: Mapping[tuple[int, int], tuple[PairText, ...]]

    def __post_init__(self) -> None:
        for (i, j), texts in self.pairs.items():
            if not 0 <= i < j < len(self.class_names):
                raise UserError(f"pair ({i}, {j}) must be i < j, both in 0 to {len(self.class_names) - 1}")
            if not texts:
                raise UserError(f"pair ({i}, {j}) has no sentences: leave it out")

    def about(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """The sentences about class i against class j, under (i, j) for both orders."""
        return {
            key: tuple(pair.texts[side] for pair in texts)
            for (i, j), texts in self.pairs.items()
            for side, key in enumerate(((i, j), (j, i)))
        }


def both_ways(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each pair, and right after it the same pair the other way round."""
    return [ordered for i, j in pairs for ordered in ((i, j), (j, i))]


def pair_texts(answers: Iterable[Description], class_names: Sequence[str]) -> PairTexts:
    """Answers to questions about pairs, put together: each question and sample with both orders answered is one PairText."""
    texts = {
        (answer.class_id, answer.extra["other_id"], answer.question, answer.extra["sample"]): answer.text
        for answer in answers
    }
    pairs: dict[tuple[int, int], tuple[PairText, ...]] = {}
    for (i, j, question, sample), text in texts.items():
        other = texts.get((j, i, question, sample))
        if i < j and other is not None:
            pairs[i, j] = (*pairs.get((i, j), ()), PairText(attribute_of(question), (text, other)))
    return PairTexts(tuple(class_names), pairs)


def class_list_path(path: str | os.PathLike[str]) -> Path:
    """The file with the class names that the numbers in the pairs file `path` mean: `pairs.classes.json` for `pairs.json`."""
    return Path(path).with_suffix(".classes.json")


def write_pairs(path: str | os.PathLike[str], pairs: PairTexts) -> None:
    """Write `path` and the class list beside it, atomically; equal content gives equal bytes, whatever the order of pairs."""
    entries = {
        f"{i}_{j}": {
            "classes": [i, j],
            "prompt_pairs": [{"attr_type": pair.attribute, "prompt_pair": list(pair.texts)} for pair in texts],
        }
        for (i, j), texts in sorted(pairs.pairs.items())
    }
    write_atomically(class_list_path(path), _encode(list(pairs.class_names)))
    write_atomically(path, _encode(entries))


def read_pairs(
    path: str | os.PathLike[str], class_names: Sequence[str], aliases: Mapping[str, str] | None = None
) -> PairTexts:
    """Read a pairs file and the class list beside it, with classes numbered as in `class_names`.

    A pair may be written in either order (`3_1`): it is turned round together with its sentences.

    Raises:
        UserError: A file is absent or broken JSON, the class list does not hold the dataset's classes, or a pair is malformed, of
            one class, out of range, given twice, or has an empty sentence or none. The message starts with the file, and
            with the key where it is about a pair.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `ex2 describe-pairs` writes files of pair descriptions")
    position = _positions(_class_list_beside(path), class_names, aliases)
    entries = read_json(path, _TWICE)
    if not isinstance(entries, dict):
        raise UserError(f"{path}: expected a JSON object of pairs such as 0_1, found {type(entries).__name__}")
    pairs: dict[tuple[int, int], tuple[PairText, ...]] = {}
    for key, entry in entries.items():
        try:
            i, j = _parse_key(key, len(position))
            texts = _parse_entry(entry, [i, j])
            i, j = position[i], position[j]
            if i > j:
                i, j = j, i
                texts = tuple(PairText(pair.attribute, pair.texts[::-1]) for pair in texts)
            if (i, j) in pairs:
                raise UserError("the same pair is there twice, once in each order: merge them")
        except UserError as error:
            raise UserError(f"{path}, {key!r}: {error}") from None
        pairs[i, j] = texts
    return PairTexts(tuple(class_names), pairs)


def _class_list_beside(path: Path) -> Path:
    """The class list of a pairs file: EX2's, or as FuDD calls it, with the file's own name or the beginning of it."""
    ours = class_list_path(path)
    theirs = sorted(path.parent.glob("*class_names.json"), key=lambda file: len(file.name))
    begins = [file for file in theirs if path.stem.startswith(file.stem.removesuffix("class_names").rstrip("_-. "))]
    found = next((file for file in (ours, *reversed(begins)) if file.is_file()), None)
    if found is None:
        raise UserError(
            f"{path}: its numbers mean nothing without the list of class names: put it, a JSON list in order, into {ours} "
            f"or {path.stem}_class_names.json"
        )
    return found


def _encode(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def _positions(path: Path, class_names: Sequence[str], aliases: Mapping[str, str] | None) -> list[int]:
    """For each class of the list in `path`, its position in the dataset."""
    found = read_json(path, _TWICE)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: expected a JSON list of class names in order")
    if found == list(class_names):
        return list(range(len(found)))
    for names, whose in ((found, "it"), (class_names, "the dataset")):
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise UserError(
                f"{path}: {whose} has several classes called {twice[0]!r}, which only their positions tell apart: the list must "
                "be the dataset's, in its order"
            )
    position = match_names(found, class_names, str(path), aliases)
    if missing := [name for i, name in enumerate(class_names) if i not in set(position)]:
        raise UserError(
            f"{path}: {len(missing)} of the dataset's {len(class_names)} classes are missing: {some_of(missing)}"
        )
    return position


def _parse_key(key: str, count: int) -> tuple[int, int]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise UserError("a key must be two class numbers such as 0_1")
    i, j = int(match[1]), int(match[2])
    if i == j:
        raise UserError(f"a pair needs two classes, but both are {i}")
    if max(i, j) >= count:
        raise UserError(f"class {max(i, j)} is out of range: the class list has {count} names, 0 to {count - 1}")
    return i, j


def _parse_entry(entry: Any, classes: list[int]) -> tuple[PairText, ...]:
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt_pairs"), list) or not entry["prompt_pairs"]:
        raise UserError("expected an object with classes and a list prompt_pairs of at least one entry")
    if entry.get("classes") != classes:
        raise UserError(f"the key disagrees with classes {entry.get('classes')!r}: they must be {classes}")
    texts = []
    for pair in entry["prompt_pairs"]:
        if not isinstance(pair, dict) or not isinstance(pair.get("prompt_pair"), list) or "attr_type" not in pair:
            raise UserError(f"expected an object with attr_type and a list prompt_pair, found {pair!r}")
        texts.append(PairText(pair["attr_type"], tuple(pair["prompt_pair"])))
    return tuple(texts)
