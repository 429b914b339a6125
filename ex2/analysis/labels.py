"""Labels of people for a sample of a study's clauses: which clauses, the sheets that people fill in, and reading them back.

A sheet is a CSV with a row for each clause and person, and one local page with the same clauses. `sheet.json` beside them says
how the sample was drawn, which the estimates need (`ex2.analysis.corrected`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ex2.base.errors import UserError, did_you_mean
from ex2.base.files import read_json, read_text, to_json, write_atomically
from ex2.base.pages import templates
from ex2.base.shown import to_csv
from ex2.texts.categories import CATEGORIES, check_category

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "report"
DESIGN = "sheet.json"
COLUMNS = ("clause_id", "annotator", "class_name", "clause", "category")

FEWEST_OF_A_STRATUM = 5
"""Clauses of each judged category that are drawn, if there are so many: their spread must be known."""


@dataclass(frozen=True)
class Sheet:
    """A sample of a study's clauses and who labels it.

    Attributes:
        annotators: Names of the people.
        strata: Stratum (judged category) of each drawn clause, by id.
        sizes: How many distinct clauses of the study are in each stratum.
        seed: What it was drawn with.
    """

    annotators: tuple[str, ...]
    strata: dict[str, str]
    sizes: dict[str, int]
    seed: int


def clause_id(class_name: str, clause: str) -> str:
    """The id of a clause about a class: equal clauses have equal ids, in whatever study they stand."""
    return hashlib.sha256(json.dumps([class_name, clause]).encode()).hexdigest()[:12]


def units(clauses: pd.DataFrame) -> pd.DataFrame:
    """The distinct clauses of a study: class_name, clause and category (as judged), by clause_id.

    Args:
        clauses: The study's table `clauses`.
    """
    ids = [clause_id(*pair) for pair in zip(clauses["class_name"], clauses["clause"], strict=True)]
    distinct = clauses.assign(clause_id=ids).drop_duplicates("clause_id").set_index("clause_id")
    return distinct[["class_name", "clause", "category"]]


def draw(clauses: pd.DataFrame, n: int, annotators: Sequence[str], seed: int) -> Sheet:
    """A sample of `n` distinct clauses, from each judged category in proportion to its number, `FEWEST_OF_A_STRATUM` at least.

    Raises:
        UserError: Fewer than `n` distinct clauses, or too few asked for, or an annotator named twice or without a name.
    """
    table = units(clauses)
    strata = table.groupby("category", sort=True).indices
    least = {name: min(FEWEST_OF_A_STRATUM, len(rows)) for name, rows in strata.items()}
    if n > len(table):
        raise UserError(f"--n {n}: the study has {len(table)} distinct clauses; label at most so many.")
    if n < sum(least.values()):
        raise UserError(
            f"--n {n} is too few: {sum(least.values())} are needed for {FEWEST_OF_A_STRATUM} of each judged category."
        )
    names = [name.strip() for name in annotators]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--annotators {' '.join(annotators)}: each person needs a name of their own.")
    generator = np.random.default_rng(seed)
    sizes = {str(name): len(rows) for name, rows in strata.items()}
    counts = allocate(sizes, n)
    drawn = {
        str(table.index[row]): str(name)
        for name, rows in strata.items()
        for row in generator.choice(rows, counts[name], replace=False)
    }
    order = generator.permutation(list(drawn)).tolist()  # else a reader sees what the judge said
    return Sheet(tuple(names), {key: drawn[key] for key in order}, sizes, seed)


def allocate(sizes: Mapping[Any, int], n: int) -> dict[Any, int]:
    """How many of each stratum: `FEWEST_OF_A_STRATUM` or all it has, the rest in proportion to size (largest remainder)."""
    counts = {name: min(FEWEST_OF_A_STRATUM, size) for name, size in sizes.items()}
    while (rest := n - sum(counts.values())) > 0:
        open_ = {name: size for name, size in sizes.items() if counts[name] < size}
        # The stratum that is furthest behind its share; one by one, as some fill up.
        behind = max(open_, key=lambda name: (sizes[name] / sum(sizes.values()) * n - counts[name], sizes[name]))
        step = max(
            1, min(int(sizes[behind] / sum(sizes.values()) * n - counts[behind]), rest, sizes[behind] - counts[behind])
        )
        counts[behind] += step
    return counts


def write_sheet(sheet: Sheet, clauses: pd.DataFrame, folder: Path) -> list[Path]:
    """Write labels.csv, label.html and sheet.json; the judge's categories are in none that people see.

    Returns:
        The files.
    """
    table = units(clauses)
    rows = [
        (key, name, table.loc[key, "class_name"], table.loc[key, "clause"], "")
        for name in sheet.annotators
        for key in sheet.strata
    ]
    page = (
        templates(ASSETS)
        .get_template("label.html.j2")
        .render(
            categories=CATEGORIES,
            annotators=sheet.annotators,
            clauses=[(key, table.loc[key, "class_name"], table.loc[key, "clause"]) for key in sheet.strata],
        )
    )
    files = [folder / "labels.csv", folder / "label.html", folder / DESIGN]
    write_atomically(files[0], to_csv(pd.DataFrame(rows, columns=list(COLUMNS))))
    write_atomically(files[1], page.encode())
    write_atomically(files[2], to_json(asdict(sheet)))
    return files


def read_labels(paths: Sequence[Path], known: Container[str]) -> tuple[Sheet, pd.DataFrame]:
    """The labels in one or more filled-in sheets.

    Args:
        paths: CSV files beside the `sheet.json` that they belong to; rows without a category are not labelled yet.
        known: Ids of the clauses of the study that they are for.

    Returns:
        The sheet, and a row a label: clause_id, annotator, category.

    Raises:
        UserError: A file or its sheet.json is absent or damaged, an unknown clause, category or annotator (by line), two
            labels of one person for one clause, or no label at all.
    """
    sheets = {path: _read_design(path) for path in paths}
    sheet = sheets[paths[0]]
    for path, other in sheets.items():
        if other.strata != sheet.strata:
            raise UserError(
                f"--labels {path}: its {DESIGN} is of another sample than that of {paths[0]}; label one sample."
            )
    annotators = list(dict.fromkeys(name for other in sheets.values() for name in other.annotators))
    found: dict[tuple[str, str], str] = {}
    for path in paths:
        for number, row in _rows(path):
            where = f"{path}:{number}"
            category = (row["category"] or "").strip()
            key, name = (row["clause_id"] or "").strip(), (row["annotator"] or "").strip()
            if key not in sheet.strata or key not in known:
                raise UserError(
                    f"{where}: clause {key!r} is not in this study's sample; use the sheet that `ex2 label` wrote "
                    "for it."
                )
            if name not in annotators:
                hint = did_you_mean(name, annotators)
                raise UserError(f"{where}: annotator {name!r} is none of {', '.join(annotators)}.{hint}")
            if not category:
                continue
            check_category(category, where)
            if found.get((key, name), category) != category:
                raise UserError(
                    f"{where}: annotator {name!r} labels clause {key!r} twice, differently; keep one of the rows."
                )
            found[key, name] = category
    if not found:
        raise UserError(f"--labels {' '.join(map(str, paths))}: no row has a category yet; fill in the column.")
    rows = [(key, name, category) for (key, name), category in found.items()]
    return sheet, pd.DataFrame(rows, columns=["clause_id", "annotator", "category"])


def _read_design(path: Path) -> Sheet:
    if not path.is_file():
        raise UserError(f"--labels {path}: no such file.")
    design = path.with_name(DESIGN)
    if not design.is_file():
        raise UserError(f"--labels {path}: {design} is missing; keep labels in the folder that `ex2 label` wrote.")
    try:
        value = read_json(design)
        return Sheet(tuple(value["annotators"]), dict(value["strata"]), dict(value["sizes"]), int(value["seed"]))
    except (ValueError, KeyError, TypeError) as error:  # what read_json raises is a ValueError
        raise UserError(f"--labels {path}: {design} is damaged ({error}); let `ex2 label` write it again.") from None


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV with their line numbers."""
    text = read_text(path, f"--labels {path}")
    dialect = "excel" if text.partition("\n")[0].count(",") >= text.partition("\n")[0].count(";") else _Semicolons
    reader = csv.DictReader(io.StringIO(text), dialect=dialect)
    missing = [name for name in ("clause_id", "annotator", "category") if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"--labels {path}: the column {missing[0]} is missing; a sheet has {', '.join(COLUMNS)}.")
    return [(reader.line_num, row) for row in reader]


class _Semicolons(csv.excel):
    """What spreadsheets write where the comma is the decimal sign."""

    delimiter = ";"


def krippendorff_alpha(labels: pd.DataFrame) -> float:
    """Krippendorff's alpha for nominal data: agreement between people beyond chance, 1 if perfect.

    From the coincidences of values within clauses that two or more people labelled (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability"); NaN where there are none. 1 where all say the same of everything.

    Args:
        labels: From `read_labels`.
    """
    counts = pd.crosstab(labels["clause_id"], labels["category"]).to_numpy(dtype=float)
    counts = counts[counts.sum(axis=1) >= 2]
    if not len(counts):
        return float("nan")
    people = counts.sum(axis=1, keepdims=True)
    agreeing = float((counts * (counts - 1) / (people - 1)).sum())
    total = float(counts.sum())
    of_category = counts.sum(axis=0)
    by_chance = float((of_category * (of_category - 1)).sum()) / (total - 1)
    return 1.0 if by_chance == total else (agreeing - by_chance) / (total - by_chance)
