"""Tries all cases and prints a table: python -m tests.fuzz"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from multiprocessing import get_context

# Before torch is imported: a fork of a process with OpenMP's threads comes to nothing.
os.environ["OMP_NUM_THREADS"] = "1"

from tests.fuzz.cases import tried_part


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
