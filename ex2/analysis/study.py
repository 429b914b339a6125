"""What an analysis found, and its files: tidy tables and a summary that report, notebooks and `ex2 compare` work from."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from ex2.base.errors import UserError, one_line
from ex2.base.files import parse_json, to_json, write_atomically
from ex2.base.folders import unfinished
from ex2.base.shown import to_csv


@dataclass
class Study:
    """What an analysis found.

    Attributes:
        tables: Tidy tables by name; `docs/analysis.md` describes their columns.
        summary: What the tables say together, ready for JSON: facts about the study, the controls, the verdict on each
            category and warnings in words.
    """

    tables: dict[str, pd.DataFrame]
    summary: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` and each table as Parquet and CSV into ``folder/tables``, each file atomically."""
        for name, table in self.tables.items():
            write_atomically(folder / "tables" / f"{name}.parquet", table.to_parquet(index=False))
            write_atomically(folder / "tables" / f"{name}.csv", to_csv(table))
        write_atomically(folder / "summary.json", to_json(self.summary))

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study that `ex2 analyze` wrote into a folder, or `ex2 study` below it (`analysis_in`).

        Raises:
            UserError: The folder holds none, or not a whole one.
        """
        folder = analysis_in(folder)
        if unfinished(folder) is not None:
            raise UserError(f"{folder} holds an analysis that was not finished: run `ex2 analyze` again.")
        path = folder / "summary.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no analysis: summary.json is missing; `ex2 analyze` writes it.")
        try:
            summary = parse_json(path.read_bytes())
            paths = {name: folder / "tables" / f"{name}.parquet" for name in summary["tables"]}
            tables = {name: pd.read_parquet(BytesIO(path.read_bytes())) for name, path in paths.items()}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{folder} holds a damaged analysis ({one_line(error)}); run `ex2 analyze` again."
            ) from error
        return cls(tables, summary)


def analysis_in(folder: Path) -> Path:
    """Where a folder's analysis lies: `ex2 study` puts it into ``folder/analysis``, `ex2 analyze` into the folder itself."""
    below = folder / "analysis"
    return below if not (folder / "summary.json").is_file() and (below / "summary.json").is_file() else folder
