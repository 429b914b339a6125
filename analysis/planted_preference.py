"""Proof of the method: plant a preference, run the whole of EX2 on it, and see whether it reports what was planted.

    python analysis/planted_preference.py --out runs/planted [--seeds 0 1 2] [--random_seeds 0 1 2 3 4 5] [--jobs 2]

For each kind of attribute and seed: PPO on prototypes made of sentences of that kind (configs/planted.yaml), descriptions of
the trained policy, analysis. `planted:random` is the negative control; `--controls` adds `common` and `swapped`. Each run uses
one core; `--jobs 2` keeps two going. A run that is finished is not repeated, one that was interrupted goes on from its
checkpoint. Prints the table, and writes it as OUT/planted.csv and OUT/planted.md.

A run counts as recovered when the planted kind gained the most share of clauses from base to aligned and has the largest
contribution (`spurious`, which is about no class: the largest `general`); a control counts as a false alarm when the interval
of any category's contribution excludes zero.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from one_study import ROOT, study

from ex2.analysis.study import Study
from ex2.base.files import write_atomically
from ex2.data.planted import CONTROLS, PLANTED
from ex2.texts.categories import CATEGORIES, INFORMATIVE


def run_one(out: Path, kind: str, seed: int, extra: list[str]) -> None:
    """Train, generate, analyse; what is there already is kept."""
    start = time.perf_counter()
    study(
        out / f"{kind}_{seed}",
        [
            "--config", str(ROOT / "configs" / "planted.yaml"), "--dataset", f"planted:{kind}", "--samples", "2",
            "--seed", str(seed), "--split_seed", str(seed), *extra,
        ],
        environment={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )  # fmt: skip
    print(f"{kind}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)


def row_of(out: Path, kind: str, seed: int) -> dict[str, Any]:
    """One line of the table."""
    preference = Study.read(out / f"{kind}_{seed}" / "analysis").tables["preference"].set_index("category")
    # A preference for texts that say nothing about their class is none for being about it.
    measure = "general" if kind in PLANTED and kind not in INFORMATIVE else "contribution"
    change, adds = preference["change_mean"], preference[f"{measure}_mean"]
    away = (preference["contribution_low"] > 0) | (preference["contribution_high"] < 0)
    row: dict[str, Any] = {"planted": kind, "seed": seed}
    row |= {f"change_{name}": change[name] for name in CATEGORIES}
    row |= {f"contribution_{name}": preference["contribution_mean"][name] for name in CATEGORIES}
    row["preferred"] = " ".join(name for name in CATEGORIES if preference["preferred"][name]) or "-"
    if kind in CONTROLS:
        row["as_planted"] = not bool(away.any())
    else:
        row["as_planted"] = bool(change.idxmax() == kind and adds.idxmax() == kind)
    return row


def to_markdown(table: pd.DataFrame) -> str:
    """The table for a document: change of share and contribution by category, and whether the run found what was planted."""
    head = [
        "planted",
        "seed",
        *(f"{name}: share change / contribution" for name in CATEGORIES),
        "preferred",
        "as planted",
    ]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row in table.to_dict("records"):
        cells = [f"{row[f'change_{name}']:+.3f} / {row[f'contribution_{name}']:+.3f}" for name in CATEGORIES]
        found = "yes" if row["as_planted"] else "no"
        lines.append(f"| {row['planted']} | {row['seed']} | {' | '.join(cells)} | {row['preferred']} | {found} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/planted"), help="folder of the runs; default: runs/planted"
    )
    parser.add_argument("--kinds", nargs="+", default=list(PLANTED), choices=PLANTED, help="default: all four")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="of the planted runs; default: 0 1 2")
    parser.add_argument(
        "--random_seeds", nargs="*", type=int, default=list(range(6)), help="of the controls; default: 0 to 5"
    )
    parser.add_argument("--controls", nargs="+", default=["random"], choices=CONTROLS, help="default: random")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each; default: 2")
    parser.add_argument("--table_only", action="store_true", help="make the table of the runs that are finished")
    args, extra = parser.parse_known_args()  # what is left over goes to training
    grid = [(kind, seed) for seed in args.seeds for kind in args.kinds] + [
        (kind, seed) for kind in args.controls for seed in args.random_seeds
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.table_only:
        with ThreadPoolExecutor(args.jobs) as pool:
            for future in [pool.submit(run_one, args.out, kind, seed, extra) for kind, seed in grid]:
                future.result()
    finished = [(k, s) for k, s in grid if (args.out / f"{k}_{s}" / "analysis" / "summary.json").is_file()]
    if not finished:
        raise SystemExit("error: no run is finished.")
    table = pd.DataFrame([row_of(args.out, kind, seed) for kind, seed in finished])
    write_atomically(args.out / "planted.csv", table.to_csv(index=False).encode())
    write_atomically(args.out / "planted.md", (to_markdown(table) + "\n").encode())
    print(to_markdown(table))
    is_control = table["planted"].isin(CONTROLS)
    planted, control = table[~is_control], table[is_control]
    print(f"\nplanted kind recovered: {planted['as_planted'].sum()} of {len(planted)}")
    print(f"controls without any interval away from zero: {control['as_planted'].sum()} of {len(control)}")


if __name__ == "__main__":
    main()
