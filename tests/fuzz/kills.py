"""Kills before every file operation of every command, and of a training run at random moments: nothing is lost.

python -m tests.fuzz.kills                            # 20 random kills of a training run, then the sweeps
python -m tests.fuzz.kills --only score --every 3     # before every third operation of one command
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

# Before torch is imported: a fork of a process with OpenMP's threads comes to nothing.
os.environ["OMP_NUM_THREADS"] = "1"

from ex2.base.files import is_temporary
from ex2.cli import main as ex2
from ex2.launch import main as train
from ex2.options.parse import parse_options
from tests.fuzz.environments import commands
from tests.fuzz.material import Material
from tests.fuzz.promise import served
from tests.kills import ended, killed_after, killed_before, started

_PICTURES = (".html", ".svg", ".png")  # they tell the time


def line_into(line: Sequence[str], out: Path) -> list[str]:
    """A command line of `commands`, with its output."""
    return [part.replace("OUT", str(out)) for part in line]


def contents(folder: Path) -> dict[str, bytes]:
    """What a command has written, by name. What names the folder is left as if it were always the same one."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().replace(str(folder).encode(), b"OUT")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in _PICTURES
    }


def quietly(action: Callable[[], object]) -> None:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        action()


def sweep(line: Sequence[str], root: Path, every: int = 1, first: int = 1) -> int:
    """Kill a command before its operations, each time in a fresh folder, and run it again; how often it was killed.

    Raises:
        AssertionError: It does not end as if nothing had happened, or leaves temporary files.
    """
    expected = root / "expected"
    expected.mkdir()
    quietly(lambda: ex2(line_into(line, expected)))
    whole, kills = contents(expected), 0
    out = root / "out"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        killed = killed_before(first + kills * every, lambda: ex2(line_into(line, out)), str(out))
        # In a process of its own again, as a user would: each looks for what the dead have left. What does not replace its
        # output by itself is refused where all of it was written.
        if killed and ended(started(lambda: ex2(line_into(line, out)))) != 0:
            assert line[0] == "export", f"{line[0]}, killed before operation {first + kills * every}, failed"
        assert contents(out) == whole, f"{line[0]}, killed before operation {first + kills * every}"
        assert not [path for path in out.rglob("*") if is_temporary(path)]
        if not killed:
            return kills
        kills += 1


def going_on(line: list[str]) -> list[str]:
    """A training run's command line, with what makes it take up what its folder holds."""
    from ex2.commands.study import _going_on
    from ex2.run.folder import take_back

    options = parse_options("ppo", line)
    take_back(options.output_dir)
    return [*line, *_going_on(options)]


def random_kills(
    line_to: Callable[[Path], list[str]], out: Path, kills: int, longest: float, expected: Path, seed: int = 0
) -> int:
    """Kill a training run at random moments until so many kills are done, then let it end; how often it was killed.

    Args:
        line_to: The run's command line, given its folder.
        out: Folder of the run.
        kills: How many.
        longest: Seconds of computing after which it is killed at most.
        expected: The same run, never killed.
        seed: Of the moments.

    Raises:
        AssertionError: It does not end as one that was never killed, bit for bit.
    """
    from tests.run.test_resume import assert_same_end

    draw, done = random.Random(seed), 0
    while killed_after(
        draw.uniform(0.05, longest) if done < kills else 1e6, lambda: train("ppo", going_on(line_to(out)))
    ):
        done += 1
    assert_same_end(out, expected)
    assert not [path for path in out.rglob("*") if is_temporary(path)]
    return done


def straight(line_to: Callable[[Path], list[str]], root: Path) -> Path:
    """Folder of a run that is never killed."""
    assert ended(started(lambda: train("ppo", line_to(root / "straight")))) == 0
    return root / "straight"


def training_sweep(line_to: Callable[[Path], list[str]], root: Path, every: int, first: int = 1) -> int:
    """`sweep` of a training run."""
    from tests.run.test_resume import assert_same_end

    expected, kills = straight(line_to, root), 0
    out = root / "killed"
    while True:
        shutil.rmtree(out, ignore_errors=True)
        if not killed_before(first + kills * every, lambda: train("ppo", line_to(out)), str(out)):
            return kills
        kills += 1
        assert ended(started(lambda: train("ppo", going_on(line_to(out))))) == 0
        assert_same_end(out, expected)


def main() -> None:
    from tests.conftest import training_arguments
    from tests.fuzz.cases import basic_material
    from tests.fuzz.material import completed

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="random, train, or commands")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="before every Nth operation; default: 1")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="random kills of training; default: 20")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        material: Material = basic_material(root)
        if not set(arguments.only or ["all"]) <= {"random", "train"}:
            material = completed(material, root)

        def long(out: Path) -> list[str]:
            return training_arguments(material.llm, material.images, out, max_steps=400, before_after=False)

        jobs: dict[str, Callable[[Path], int]] = {
            "random": lambda root: random_kills(long, root / "run", arguments.kills, 4, straight(long, root)),
            "train": lambda root: training_sweep(
                lambda out: training_arguments(material.llm, material.images, out), root, arguments.every
            ),
        }
        for name, line in commands(material).items():
            if name != "train":
                jobs[name] = lambda root, line=line: sweep(line, root, arguments.every)  # type: ignore[misc]
        for name, job in jobs.items():
            if arguments.only is None or name in arguments.only:
                start = time.perf_counter()
                (root / f"kills_{name}").mkdir()
                with served():
                    kills = job(root / f"kills_{name}")
                print(
                    f"{name:<16}{kills:>4} kills, each as if nothing had happened; {time.perf_counter() - start:.0f} s",
                    flush=True,
                )
    sys.exit(0)


if __name__ == "__main__":
    main()
