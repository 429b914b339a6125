"""The interchange formats of descriptions; what each of them promises is in docs/export.md.

A name-keyed file cannot hold two classes of one name. There a class goes by its key: its name, or for a later class of the same
name "NAME (2)" and so on; classes.json binds keys to ids and names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ex2.base.errors import UserError, first_line
from ex2.texts.descriptions import Description

if TYPE_CHECKING:
    import pyarrow

    from ex2.vlm import VLM

Matrix = NDArray[np.float32]


def class_keys(class_names: Sequence[str]) -> list[str]:
    """One distinct key a class: its name, with the lowest free number from 2 on where an earlier class has that name."""
    names, keys = set(class_names), dict[str, None]()
    for name in class_names:
        # A class whose name really is "crane (2)" keeps it, wherever it stands.
        numbered = (key for number in count(2) if (key := f"{name} ({number})") not in names)
        keys[next(key for key in chain([name], numbered) if key not in keys)] = None
    return list(keys)


def texts_by_class(class_names: Sequence[str], records: Sequence[Description]) -> dict[str, list[str]]:
    """Class key -> its texts, classes by id and texts in the order of `records`."""
    keys = class_keys(class_names)
    texts: dict[str, list[str]] = {key: [] for key in keys}
    for record in records:
        texts[keys[record.class_id]].append(record.text)
    return texts


def check_coverage(class_names: Sequence[str], records: Sequence[Description], source: str) -> None:
    """Raise UserError, beginning with `source`, where a class has no description."""
    described = {record.class_id for record in records}
    if empty := [f"{name} (class {i})" for i, name in enumerate(class_names) if i not in described]:
        more = f" and {len(empty) - 1} more classes" if len(empty) > 1 else ""
        raise UserError(
            f"{source}: no description of {empty[0]}{more}: add some (`ex2 generate`), or leave the descriptions out "
            "(--no_descriptions)."
        )


def to_table(class_names: Sequence[str], records: Sequence[Description]) -> pyarrow.Table:
    """One row a description: the record's fields, the class's key, a column `score_NAME` for each score (null: not
    scored), and `extra`, the record's further keys as one JSON object."""
    import pyarrow as pa

    keys = class_keys(class_names)
    names = sorted({name for record in records for name in record.scores})
    columns: dict[str, Any] = {
        "dataset": pa.array([r.dataset for r in records], pa.string()),
        "class_id": pa.array([r.class_id for r in records], pa.int64()),
        "class_name": pa.array([r.class_name for r in records], pa.string()),
        "class_key": pa.array([keys[r.class_id] for r in records], pa.string()),
        "question": pa.array([r.question for r in records], pa.string()),
        "text": pa.array([r.text for r in records], pa.string()),
        "model": pa.array([r.model for r in records], pa.string()),
        "seed": pa.array([r.seed for r in records], pa.int64()),
        "category": pa.array([r.category for r in records], pa.string()),
        **{f"score_{name}": pa.array([r.scores.get(name) for r in records], pa.float64()) for name in names},
        "extra": pa.array([json.dumps(r.extra, ensure_ascii=False) for r in records], pa.string()),
    }
    return pa.table(columns)


def build_classifier(class_names: Sequence[str], records: Sequence[Description], vlm: VLM) -> Matrix:
    """Zero-shot weights (D, C): column c is the normalised mean of the unit embeddings of class c's texts.

    Args:
        class_names: Names of the C classes, each of which has a record.
        records: Texts; a text that occurs twice counts twice.
        vlm: Encodes them.
    """
    from ex2.zero_shot.vectors import TextSums

    row = {text: i for i, text in enumerate(dict.fromkeys(record.text for record in records))}
    embeddings = vlm.encode_texts(list(row))[[row[record.text] for record in records]]
    sums = TextSums.of(embeddings, [record.class_id for record in records], len(class_names))
    return sums.vectors().T.cpu().numpy()


def write_classifier(path: Path, class_names: Sequence[str], weight: Matrix) -> None:
    """Write `weight` (D, C) as the tensor `weight`, with the class names, in the order of its columns, in the metadata."""
    from safetensors.numpy import save

    # One entry only: safetensors writes several in random order, and equal bundles would differ.
    metadata = {"class_names": json.dumps(list(class_names), ensure_ascii=False)}
    path.write_bytes(save({"weight": np.ascontiguousarray(weight)}, metadata))


def read_classifier(path: Path) -> Matrix:
    """The matrix (D, C) that `write_classifier` wrote.

    Raises:
        UserError: The file holds something else, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weight = load_file(path)["weight"]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is no classifier: {first_line(error)}.") from error
    if weight.ndim != 2:
        raise UserError(f"{path} is no classifier: its weight has the shape {weight.shape}.")
    return weight
