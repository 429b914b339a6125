"""The reader of tables of image files: `csv:FILE`."""

from __future__ import annotations

import csv
import io
import os
import re

from ex2.base.errors import UserError
from ex2.base.files import from_home, read_text
from ex2.base.shown import some_of
from ex2.data.labelled import SPLITS, ImageFile, LabelledImages, here, images_of_files
from ex2.data.names import class_name_of, split_of

_LAYOUT = "expected the columns path,class[,split], with paths relative to the file"
_SPLIT_NAMES = (*SPLITS, "train", "test", "val")


def read_csv(file: str) -> LabelledImages:
    """The image set ``csv:FILE``: a CSV file in UTF-8 with a header and one image a line.

    Columns are ``path`` (relative to the file's folder; it is the image's id), ``class`` (underscores are blanks) and, if
    the set has splits, ``split``: ``reward``, ``heldout`` or ``validation``, or ``train``, ``test`` or ``val`` for them.
    Other columns are left alone. Classes are in the order of their names.

    Raises:
        UserError: the file is missing or no such table, a line lacks a value, or a path comes twice.
    """
    option = f"dataset 'csv:{file}'"
    path = from_home(file)
    if not file:
        raise UserError(f"{option}: no file named after the colon; {_LAYOUT}.")
    if not path.is_file():
        raise UserError(f"{option}: {path} {'is no file' if path.exists() else 'does not exist'}; {_LAYOUT}.")
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, option), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]
        columns = reader.fieldnames or []
    except csv.Error as error:
        raise UserError(f"{option}: cannot be read as CSV in UTF-8 ({error}); {_LAYOUT}.") from error
    missing = [name for name in ("path", "class") if name not in columns]
    if missing:
        there = f" (it has {some_of([repr(name) for name in columns])})" if columns else ""
        raise UserError(f"{option}: the first line has no column {missing[0]!r}{there}; {_LAYOUT}.")
    if not rows:
        raise UserError(f"{option}: there are no lines below the header; {_LAYOUT}.")

    line_of: dict[str, int] = {}
    entries: list[tuple[str, str, str | None]] = []
    for line, row in rows:
        image, name = (row["path"] or "").strip(), class_name_of(row["class"] or "")
        if "\0" in image + name:
            raise UserError(f"{option}, line {line}: there is a NUL character; save the table as CSV in UTF-8.")
        if not image or not name:
            raise UserError(f"{option}, line {line}: {'class' if image else 'path'} is empty; {_LAYOUT}.")
        if re.fullmatch(r"\[.*\]|.*[|;].*", name):
            raise UserError(f"{option}, line {line}: {name!r} is a list of classes; an image has one class.")
        place = os.path.normpath(here(image, path.parent))  # ./a.png is a.png
        if place in line_of:
            raise UserError(
                f"{option}, line {line}: {image!r} is on line {line_of[place]} too; an image has one class."
            )
        line_of[place] = line
        entries.append((image, name, _split(row["split"], f"{option}, line {line}") if "split" in columns else None))
    class_names = tuple(sorted({name for _, name, _ in entries}))
    label_of = {name: label for label, name in enumerate(class_names)}
    files = [ImageFile(image, label_of[name], split) for image, name, split in entries]
    return images_of_files(f"csv:{file}", path.parent, class_names, files)


def _split(value: str | None, where: str) -> str:
    split = split_of(value or "")
    if split is None:
        raise UserError(
            f"{where}: split {value or ''!r} is none of {', '.join(_SPLIT_NAMES)}; fill it in, or leave out the column."
        )
    return split
