"""`ex2 label`: a sample of a study's clauses for people to label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ex2.base.folders import being_written, output_folder
from ex2.base.shown import say

_LABELS = "labels"


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "label",
        help="draw clauses of an analysis for people to label",
        description="Draw a sample of an analysis's clauses, some of each judged category, and write it as labels.csv and as\n"
        "one local page, label.html, which saves such a CSV. Then `ex2 analyze ... --labels FILE` corrects shares and\n"
        "contributions for the judge's error (docs/judge.md).",
        epilog="Example: ex2 label runs/quickstart/analysis --out labels --n 100 --annotators anna ben",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder that `ex2 analyze` wrote")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--n", type=int, default=100, metavar="N", help="how many distinct clauses; default: 100")
    parser.add_argument(
        "--annotators", nargs="+", default=["me"], metavar="NAME", help="who labels them; each labels all; default: me"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample; default: 0")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Draw and write."""
    from ex2.analysis.labels import DESIGN, draw, write_sheet
    from ex2.analysis.study import Study
    from ex2.base.files import shaped_as_written

    with output_folder(arguments.out, DESIGN, _LABELS):
        study = Study.read(arguments.folder)
        with shaped_as_written(arguments.folder, "Run `ex2 analyze` again."):
            clauses = study.tables["clauses"]
            sheet = draw(clauses, arguments.n, arguments.annotators, arguments.seed)
        with being_written(arguments.out, _LABELS):
            files = write_sheet(sheet, clauses, arguments.out)
    say(
        f"{len(sheet.strata)} clauses for {', '.join(sheet.annotators)}: fill in the column category of {files[0]}, or open"
    )
    say(f"{files[1]} in a browser. Then: ex2 analyze ... --labels {files[0]}")
