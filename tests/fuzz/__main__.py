"""Tries all cases and prints a table: python -m tests.fuzz"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz.cases import all_cases, basic_material
from tests.fuzz.material import completed
from tests.fuzz.promise import run


def tried_part(part: int, parts: int, only: Sequence[str], listed: bool) -> tuple[Counter[str], ...]:
    """Try every `parts`-th case, from the `part`-th on: how many of each kind, how many as promised, seconds."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tried: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        material = completed(basic_material(Path(root)), Path(root))
        for number, case in enumerate(all_cases(material)):
            if number % parts != part or (only and not any(word in f"{case.kind} {case.name}" for word in only)):
                continue
            folder = Path(root) / "cases" / str(number)
            folder.mkdir(parents=True)
            started = time.perf_counter()
            end = run(case, folder)
            seconds[case.kind] += time.perf_counter() - started
            complaint = end.complaint(case)
            tried[case.kind] += 1
            kept[case.kind] += complaint is None
            if complaint is not None or listed:
                print(f"{case.kind}: {case.name}: {complaint or end.lines or 'well'}", flush=True)
    return tried, kept, seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases whose kind or name holds one of these words")
    parser.add_argument("--list", action="store_true", help="say what is tried, and how it ended")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, each of which tries a part")
    arguments = parser.parse_args()
    parts = [(part, arguments.jobs, arguments.only or (), arguments.list) for part in range(arguments.jobs)]
    if arguments.jobs == 1:
        ends = [tried_part(*parts[0])]
    else:
        with get_context("spawn").Pool(arguments.jobs) as pool:
            ends = pool.starmap(tried_part, parts, chunksize=1)
    tried, kept, seconds = (sum(counters, Counter()) for counters in zip(*ends, strict=True))
    print(f"{'kind':<28}{'cases':>7}{'as promised':>13}{'seconds':>9}")
    for kind in tried:
        print(f"{kind:<28}{tried[kind]:>7}{kept[kind]:>13}{seconds[kind]:>9.0f}")
    print(f"{'all':<28}{sum(tried.values()):>7}{sum(kept.values()):>13}{sum(seconds.values()):>9.0f}")
    sys.exit(sum(kept.values()) < sum(tried.values()))


if __name__ == "__main__":
    main()
