"""Does training on pairs help? Held-out pair accuracy of configs/pairs.yaml before and after, over several seeds.

    python benchmarks/pair_training.py [--out runs/pair_training] [--seeds 0 1 2] [--jobs 2]

Trains the config with each seed, one core a run. A run that is finished is not repeated, one that was interrupted goes on
from its checkpoint; further options go to training. All seeds train on the same pairs, those that the VLM confuses most.
Prints, and writes as OUT/pair_training.md, the held-out accuracy of each system and seed, and the aligned policy against each
other system with 95 % intervals that resample pairs, with all seeds of a pair together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _common import train_run
from numpy.typing import NDArray

from ex2.base.files import write_atomically
from ex2.stats.intervals import Interval, cluster_interval

TRAINED = "aligned"

Accuracies = Mapping[str, NDArray[np.float64]]
"""Held-out accuracy of each system, seeds x pairs."""


def read(runs: Sequence[Path]) -> Accuracies:
    """The accuracies of finished runs on the same pairs."""
    reports = [json.loads((run / "pair_accuracy.json").read_text(encoding="utf-8"))["pairs"] for run in runs]
    if any([pair["classes"] for pair in report] != [pair["classes"] for pair in reports[0]] for report in reports):
        raise SystemExit("error: the runs were trained on different pairs.")
    systems = reports[0][0]["heldout"]
    return {name: np.array([[pair["heldout"][name] for pair in report] for report in reports]) for name in systems}


def over_pairs(values: NDArray[np.float64]) -> Interval:
    """Mean of (seeds, pairs) with its interval over pairs."""
    return cluster_interval(values.ravel(), np.tile(np.arange(values.shape[1]), len(values)))


def table(accuracies: Accuracies, seeds: Sequence[int]) -> str:
    """Markdown: each system by seed and over all, and what the trained policy gains over it."""
    head = ["system", *(f"seed {seed}" for seed in seeds), "all seeds", f"{TRAINED} - system"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for name, values in accuracies.items():
        mean, gain = over_pairs(values), over_pairs(accuracies[TRAINED] - values)
        cells = [name, *(f"{value:.3f}" for value in values.mean(axis=1))]
        cells += [mean.shown(".3f")]
        cells += ["" if name == TRAINED else gain.shown("+.3f")]
        lines.append(f"| {' | '.join(cells)} |")
    pairs = next(iter(accuracies.values())).shape[1]
    return "\n".join([*lines, "", f"Held-out images of {pairs} pairs; intervals (95 %) resample pairs."])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pair_training"), help="default: runs/pair_training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one core each; default: 2")
    args, extra = parser.parse_known_args(argv)  # what is left over goes to training
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [args.out / f"pairs_{seed}" for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in [
            pool.submit(train_run, run, "ppo", "pairs.yaml", seed, extra)
            for run, seed in zip(runs, args.seeds, strict=True)
        ]:
            future.result()
    text = table(read(runs), args.seeds)
    write_atomically(args.out / "pair_training.md", (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
