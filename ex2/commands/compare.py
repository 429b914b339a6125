"""`ex2 compare`: how VLMs differ in what they prefer, over training runs."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.folders import being_written, output_folder
from ex2.base.shown import say, to_csv

_COMPARISON = "comparison"


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="compare analyses of several VLMs, of one or more training runs each",
        description="Put analyses of the same classes side by side: category shares and contributions, their differences\n"
        "paired by class, and the attributes that flip. Analyses of one VLM are training runs of one side; intervals are\n"
        "about classes and runs alike, and with one run a side no difference is called. Says what was not held equal.",
        epilog="Example: ex2 compare runs/clip_* runs/siglip_* --out clip_siglip",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="folder that `ex2 analyze` or `ex2 study` wrote"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for tables and plot; default: print only")
    parser.add_argument(
        "--by",
        default="vlm",
        metavar="FACT",
        help="analyses that share this fact (vlm, dataset, learning_rate ...) are runs of one side; where all share it, "
        "each is a side of its own; default: vlm",
    )
    parser.add_argument(
        "--see", type=float, metavar="SHARE", help="say how many runs a side it takes to see this difference of shares"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Compare, print and write."""
    from ex2.analysis.study import analysis_in

    folders = [str(analysis_in(folder)) for folder in arguments.folders]
    if len(set(folders)) < len(folders):
        raise UserError("a folder is named twice: a comparison is between different analyses.")
    out = arguments.out
    with nullcontext() if out is None else output_folder(out, "comparison.txt", _COMPARISON):
        _compare(arguments, folders)


def _compare(arguments: argparse.Namespace, folders: list[str]) -> None:
    from ex2.analysis.comparison import compare, comparison_tables, format_comparison, sides_of
    from ex2.analysis.study import Study
    from ex2.base.files import shaped_as_written, write_atomically
    from ex2.stats.plots import comparison_png

    studies = [Study.read(Path(folder)) for folder in folders]
    with shaped_as_written(Path(" or ".join(folders)), "Run `ex2 analyze` again."):
        comparison = compare(sides_of(folders, studies, arguments.by), see=arguments.see)
        text = format_comparison(comparison)
    say(text)
    if arguments.out is not None:
        with being_written(arguments.out, _COMPARISON):
            for name, table in comparison_tables(comparison).items():
                write_atomically(arguments.out / f"{name}.parquet", table.to_parquet(index=False))
                write_atomically(arguments.out / f"{name}.csv", to_csv(table))
            write_atomically(arguments.out / "comparison.txt", (text + "\n").encode())
            write_atomically(arguments.out / "comparison.png", comparison_png(comparison.sides))
        say(f"Written: {arguments.out}; look at {arguments.out / 'comparison.png'}")
