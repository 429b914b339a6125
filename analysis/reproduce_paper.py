"""The paper's grid, VLMs x datasets: study each cell, and fill one table. Resumable.

    python analysis/reproduce_paper.py --data /data --out runs/paper
    python analysis/reproduce_paper.py --data /data --out runs/paper --vlms clip_b32 align --datasets cub \\
        --launcher "accelerate launch --config_file accelerate_configs/multi_gpu.yaml"
    python analysis/reproduce_paper.py --data /data --out runs/paper --table_only

VLMs (each a training configuration) and datasets are named in analysis/paper_grid.yaml (--grid FILE for your own); further
options go to training as they are. Finished cells are kept; an interrupted one goes on from its newest checkpoint. Writes
OUT/paper.csv and OUT/paper.md; compare VLMs on one dataset with `ex2 compare OUT/*_cub/analysis`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from one_study import ROOT, study

from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.base.files import write_atomically
from ex2.texts.categories import CATEGORIES, INFORMATIVE


def read_grid(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Configurations of VLMs and specs of datasets by their short names.

    Raises:
        UserError: No such file, not two mappings, or no such configuration.
    """
    if not path.is_file():
        raise UserError(f"--grid {path} does not exist.")
    grid = yaml.safe_load(path.read_text(encoding="utf-8"))
    for part in ("vlms", "datasets"):
        if not isinstance(grid, dict) or not isinstance(grid.get(part), dict) or not grid[part]:
            raise UserError(f"--grid {path} needs a mapping {part}: name: {'FILE' if part == 'vlms' else 'spec'}.")
    configs = {name: path.parent / str(config) for name, config in grid["vlms"].items()}
    for name, config in configs.items():
        if not config.is_file():
            raise UserError(f"--grid {path}: the configuration of {name}, {config}, does not exist.")
    return {name: str(config.resolve()) for name, config in configs.items()}, grid["datasets"]


def chosen(option: str, names: list[str] | None, known: dict[str, str]) -> dict[str, str]:
    """The part of `known` that was asked for."""
    for name in names or []:
        if name not in known:
            raise UserError(f"--{option} {name} is not in the grid, which has {', '.join(known)}.")
    return {name: spec for name, spec in known.items() if names is None or name in names}


def row_of(vlm: str, dataset: str, study: Study) -> dict[str, Any]:
    """One line of the table: shares of the aligned policy's descriptions, and what beats the template."""
    shares = (
        study.tables["shares"].query("system == 'aligned' and level == 'descriptions'").set_index("category")["mean"]
    )
    informative = sum(shares[name] for name in INFORMATIVE)
    row: dict[str, Any] = {"vlm": vlm, "dataset": dataset, **{f"share_{name}": shares[name] for name in shares.index}}
    # The paper's two findings: how much is spurious, and how much of what informs is not visual.
    row["non_visual_of_informative"] = 1 - shares["visual"] / informative if informative else float("nan")
    row["preferred"] = " ".join(study.tables["preference"].query("preferred")["category"]) or "-"
    for control in ("template", "base", "best_of_n"):
        gain = study.summary.get(f"aligned_minus_{control}", {}).get("heldout", {})
        row |= {f"minus_{control}_{key}": gain.get(key, float("nan")) for key in ("mean", "low", "high")}
    return row


def to_markdown(table: pd.DataFrame) -> str:
    """The table for a document."""
    head = ["VLM", "dataset", *CATEGORIES, "non-visual of informative", "preferred", "aligned - template, held-out"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row in table.to_dict("records"):
        ends = "{minus_template_mean:+.4f} [{minus_template_low:+.4f}, {minus_template_high:+.4f}]".format(**row)
        cells = [row["vlm"], row["dataset"], *(f"{row[f'share_{name}']:.2f}" for name in CATEGORIES)]
        cells += [f"{row['non_visual_of_informative']:.2f}", row["preferred"], ends]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", metavar="DIR", help="folder of the datasets, {data} in the grid")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the runs; default: runs/paper")
    parser.add_argument("--grid", type=Path, default=ROOT / "analysis" / "paper_grid.yaml", help="VLMs and datasets")
    parser.add_argument("--vlms", nargs="+", metavar="NAME", help="only these; default: all of the grid")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these; default: all of the grid")
    parser.add_argument("--algorithm", default="ppo", choices=("ppo", "grpo", "rloo"), help="default: ppo, the paper's")
    parser.add_argument("--launcher", help="what starts the training script; default: it runs in one process")
    parser.add_argument("--samples", type=int, default=1, help="answers to each question about each class; default: 1")
    parser.add_argument("--judge", default="local", help="see `ex2 list judges`; default: local")
    parser.add_argument("--table_only", action="store_true", help="make the table of the cells that are finished")
    args, extra = parser.parse_known_args()
    vlms, datasets = read_grid(args.grid)
    cells = [
        (vlm, config, dataset, place.replace("{data}", args.data))
        for vlm, config in chosen("vlms", args.vlms, vlms).items()
        for dataset, place in chosen("datasets", args.datasets, datasets).items()
    ]
    rows = []
    for number, (vlm, config, dataset, place) in enumerate(cells, start=1):
        folder = args.out / f"{vlm}_{dataset}"
        if not args.table_only:
            print(f"[{number}/{len(cells)}] {vlm} on {dataset}: {folder}", flush=True)
            launcher = [] if args.launcher is None else ["--launcher", args.launcher]
            study(
                folder,
                [
                    "--config", config, "--dataset", place, "--algorithm", args.algorithm, "--judge", args.judge,
                    "--samples", str(args.samples), *launcher, *extra,
                ],
            )  # fmt: skip
        if (folder / "analysis" / "summary.json").is_file():
            rows.append(row_of(vlm, dataset, Study.read(folder / "analysis")))
            table = pd.DataFrame(rows)
            write_atomically(args.out / "paper.csv", table.to_csv(index=False).encode())
            write_atomically(args.out / "paper.md", (to_markdown(table) + "\n").encode())
    if not rows:
        raise UserError(f"no cell is finished in {args.out}.")
    print(to_markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
