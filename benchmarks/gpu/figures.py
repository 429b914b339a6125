"""Figures of a run as JSON, and whether they are those of the committed baseline.

    python -m benchmarks.gpu.figures collect JSON_FOLDER FIGURES.json     # from what step.py and speed.py wrote
    python -m benchmarks.gpu.figures compare BASELINE.json FIGURES.json   # a table; status 1 where a figure is off

A file of figures holds `hardware`, `versions`, `commit` and `figures`, each with name, value, unit and kind: `memory`, `ratio`
(two numbers of one run, so that how fast a card is clocked counts little) or `time`. Memory may be off by 2 % and a ratio by
15 %, in either direction: one that got better calls for a new baseline. Times are shown and not judged, and on other hardware
nothing is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT
from benchmarks.gpu.versions import version

TOLERANCE = {"memory": 0.02, "ratio": 0.15, "time": math.inf}
"""How far a figure of each kind may be from the baseline's, relative to it."""

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate")


@dataclass(frozen=True)
class Figure:
    """A number of a run; `kind` is one of `TOLERANCE`."""

    name: str
    value: float
    unit: str
    kind: str


Row = dict[str, Any]

# ---------------------------------------------------------------- from rows to figures


def step_figures(row: Row) -> list[Figure]:
    """Of a row of step.py: each part and the whole, with the floor where there is one, tokens, and memory."""
    name, rounds, seconds = f"step of {row['batch']}", row["steps"], row["seconds"]
    found = [Figure(f"{name}, {part}", whole / rounds, "s", "time") for part, whole in seconds.items()]
    found += [
        Figure(f"{name}, {part}, times its floor", seconds[part] / rounds / floor, "", "ratio")
        for part, floor in row["floors"].items()
    ]
    step = sum(seconds.values()) / rounds
    sampled = row["batch"] * row["tokens"]
    return [
        *found,
        Figure(name, step, "s", "time"),
        Figure(f"{name}, times the floor", step / sum(row["floors"].values()), "", "ratio"),
        Figure(f"{name}, share of the peak's multiplications (MFU)", row["multiplying"] / step, "", "ratio"),
        Figure(f"{name}, sampled tokens", sampled / step, "1/s", "time"),
        Figure(f"{name}, trained tokens", sampled * row["epochs"] / step, "1/s", "time"),
        Figure(f"{name}, peak memory", row["peak_gib"], "GiB", "memory"),
    ]


def variant_figures(rows: Sequence[Row]) -> list[Figure]:
    """Of rows of `speed.py variants`: a rollout with its updates in each setting, also relative to the first setting."""
    found = []
    for row in rows:
        name = f"rollout of {row['batch']}, {row['what']}"
        found += [
            Figure(name, row["seconds"], "s", "time"),
            Figure(f"{name}, peak memory", row["peak_gib"], "GiB", "memory"),
        ]
        if row is not rows[0]:
            found.append(Figure(f"{name} / {rows[0]['what']}", row["seconds"] / rows[0]["seconds"], "", "ratio"))
    return found


def decode_figures(rows: Sequence[Row]) -> list[Figure]:
    """Of rows of `speed.py decode`: each way of sampling, also relative to its floor and to the first way at its batch size."""
    found, first = [], {}
    for row in rows:
        name, batch = f"decode of {row['batch']}, {row['what']}", row["batch"]
        found += [
            Figure(name, row["seconds"], "s", "time"),
            Figure(f"{name}, times the floor", row["seconds"] / row["floor"], "", "ratio"),
        ]
        base = first.setdefault(batch, row)
        if row is not base:
            found.append(Figure(f"{name} / {base['what']}", row["seconds"] / base["seconds"], "", "ratio"))
    return found


def figures_of(folder: Path) -> list[Figure]:
    """The figures of all files that a run left in `folder`; rows of what failed have none."""

    def rows(stem: str) -> list[Row]:
        path = folder / f"{stem}.json"
        found: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return [row for row in found if "error" not in row and "seconds" in row]

    steps = [figure for row in (*rows("step32"), *rows("step256")) for figure in step_figures(row)]
    return [*steps, *variant_figures(rows("variants")), *decode_figures(rows("decode"))]


def surroundings() -> dict[str, Any]:
    """Hardware, versions and commit of a run here."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a checkout may travel without its history
        commit = None
    return {
        "hardware": {"device": device, "cores": os.cpu_count()},
        "versions": {name: version(name) for name in VERSIONS},
        "commit": commit,
    }


def collect(folder: Path, target: Path) -> None:
    """Write the figures of a run with what it ran on."""
    figures = [asdict(figure) for figure in figures_of(folder)]
    target.write_text(json.dumps({**surroundings(), "figures": figures}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(figures)} figures in {target.name}")


# ---------------------------------------------------------------- against a baseline


def read(path: Path) -> dict[str, Any]:
    """A file of figures, these by name.

    Raises:
        ValueError: A name is there twice, or a kind is unknown.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    figures = [Figure(**figure) for figure in content["figures"]]
    by_name = {figure.name: figure for figure in figures}
    if len(by_name) < len(figures) or any(figure.kind not in TOLERANCE for figure in figures):
        raise ValueError(f"{path}: names are to be different, and kinds among {', '.join(TOLERANCE)}")
    return {**content, "figures": by_name}


def line(name: str, before: Figure | None, now: Figure | None, judged: bool) -> tuple[str, bool]:
    """A row of the table, and whether the figure is where it should be."""
    shown = [f"{figure.value:>10.4g}" if figure else f"{'-':>10}" for figure in (before, now)]
    if before is None or now is None:
        return f"{name:<84}{''.join(shown)}{'':>9}  {'new' if before is None else 'not measured now'}", True
    off = now.value / before.value - 1
    limit = TOLERANCE[before.kind]
    ok = not judged or abs(off) <= limit  # NaN is not
    verdict = "not judged" if not judged or limit == math.inf else f"{'ok' if ok else 'OFF'} (within {limit:.0%})"
    return f"{name:<84}{''.join(shown)}{off:>+9.1%}  {verdict}", ok


def compare(baseline: Path, figures: Path) -> bool:
    """Print a table of both files; are all figures of the second where those of the first say, as far as they are judged?"""
    before, now = read(baseline), read(figures)
    devices = [side["hardware"]["device"] for side in (before, now)]
    judged = devices[0] == devices[1]
    print(f"baseline {devices[0]} ({before['commit']}), now {devices[1]} ({now['commit']})")
    print(f"{'':<84}{'baseline':>10}{'now':>10}{'off':>9}")
    names: Iterable[str] = {**before["figures"], **now["figures"]}
    wrong = []
    for name in names:
        shown, ok = line(name, before["figures"].get(name), now["figures"].get(name), judged)
        wrong += [] if ok else [name]
        print(shown)
    if not judged:
        print("other hardware: nothing is judged")
        return True
    both = before["figures"].keys() & now["figures"].keys()
    compared = sum(TOLERANCE[before["figures"][name].kind] < math.inf for name in both)
    print(f"{compared} figures compared, {len(wrong)} off{': ' * bool(wrong)}{'; '.join(wrong)}")
    return compared > 0 and not wrong  # with nothing in common a name has changed


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and do what it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, paths in (("collect", ("folder", "figures")), ("compare", ("baseline", "figures"))):
        command = commands.add_parser(name)
        for path in paths:
            command.add_argument(path, type=Path)
    args = parser.parse_args(argv)
    if args.what == "collect":
        collect(args.folder, args.figures)
    elif not compare(args.baseline, args.figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
