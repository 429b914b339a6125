"""The lines of all logs that matter, short enough for the end of a screen: python -m benchmarks.gpu.summary OUT RUNS STEPS.

OUT holds the logs of run.sh, RUNS the runs of its jobs, and STEPS is the file that says how each step ended.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUMBERS = (
    "score",
    "reward",
    "kl",
    "approx_kl",
    "entropy",
    "loss",
    "grad_norm",
    "monitors/reward_cosine",
    "monitors/heldout_cosine",
    "value/explained_variance",
    "step_time",
)
WIDTH = 230

# Title, logs, pattern of the lines to show, and how many at most.
SECTIONS = (
    ("environment", ("env",), r"^(torch |triton|transformers|trl|NVIDIA.*GiB|FAIL|name,|NVIDIA H)", 14),
    ("tests", ("tests",), r"passed|failed|^(FAILED|ERROR|SKIPPED)|^E  ", 25),
    ("not as it should be", ("correctness",), r"^(FAIL|ERROR) |FAIL$", 40),
    ("known failures", ("correctness",), r"^known failure: ", 20),
    ("correctness", ("correctness",), r"PASS$|passed$|equal|^(checks:|INFO)", 40),
    (
        "errors of jobs and launchers",
        ("jobs", "launchers"),
        r"^(\w*Error|error:|torch\.\w*Error)",
        15,
    ),
    (
        "speed",
        ("speed",),
        r"s a step|s a rollout|TFLOP|MFU|^(generation|old log|reference|forward|rewards|text enc|rest|optimizer)"
        r"|times the floor|^ERROR ",
        50,
    ),
    ("decoding", ("decode",), r"^batch|device busy|^ERROR |no time", 30),
    ("against the baseline", ("figures",), r"^baseline | OFF |figures compared|nothing is judged|Error", 40),
)


def lines_of(path: Path) -> list[str]:
    """Lines of a log, none where there is no log."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def show(title: str, lines: Sequence[str], most: int) -> None:
    """Print at most `most` lines under a title."""
    if lines:
        print(f"\n-- {title}")
        for line in lines[:most]:
            print(line[:WIDTH])
        if len(lines) > most:
            print(f"   ... and {len(lines) - most} more")


def numbers(row: dict[str, Any]) -> str:
    """What matters of one row of metrics.jsonl."""
    found = {name: row[name] for name in NUMBERS if isinstance(row.get(name), (int, float))}
    return ", ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in found.items())


def run_lines(runs: Path) -> list[str]:
    """First and last logged numbers of each run."""
    lines = []
    for path in sorted(runs.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in lines_of(path) if line.strip()]
        rows = [row for row in rows if "kl" in row or "monitors/reward_cosine" in row]
        lines += [f"{path.parent.name:<20} step {row.get('step')}: {numbers(row)}" for row in (*rows[:1], *rows[-1:])]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "runs", "steps"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(argv)
    print("==== summary")
    print("\n".join(lines_of(args.steps)) or "no steps")
    for title, logs, pattern, most in SECTIONS:
        lines = [line for log in logs for line in lines_of(args.out / f"{log}.txt") if re.search(pattern, line)]
        show(title, lines, most)
    lines = run_lines(args.runs)
    show("runs: first and last logged numbers", lines, len(lines))


if __name__ == "__main__":
    main()
