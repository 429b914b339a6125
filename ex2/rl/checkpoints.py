"""Checkpoints on disk: one takes its place in a single step, and damage done to it later is seen before it is loaded.

A checkpoint is written in `.unfinished/` within the run folder and renamed when all its files are there. Its manifest lists
them with their sizes and checksums. One that goes is first moved to `.unfinished/` too, so that `checkpoint-N` is whole as
long as it is there. What a killed process leaves in `.unfinished/` is deleted at the next start.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ex2.base.errors import UserError
from ex2.base.files import parse_json, sha256, to_json, write_atomically

UNFINISHED = ".unfinished"
MANIFEST = "manifest.json"
_PREFIX = "checkpoint-"

logger = logging.getLogger(__name__)


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints in a run folder by their step, in ascending order, whole or not."""
    found = {int(path.name[len(_PREFIX) :]): path for path in run.glob(f"{_PREFIX}*") if _has_step(path)}
    return dict(sorted(found.items()))


def _has_step(path: Path) -> bool:
    return path.is_dir() and path.name[len(_PREFIX) :].isdecimal()


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where it is whole."""
    try:
        manifest = parse_json((checkpoint / MANIFEST).read_bytes())
        sizes = {str(name): int(size) for name, size in manifest["sizes"].items()}
        digests = dict(manifest.get("sha256", {}))  # checkpoints of EX2 0.1 have none
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return f"{MANIFEST} is broken"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if name in digests and sha256(file) != digests[name]:
            return f"{name} has changed since it was written"
    return None


def newest_whole(run: Path) -> Path:
    """The checkpoint of the highest step that is whole on every process; damaged ones are passed over with a warning.

    All processes must call it: machines with disks of their own may have lost different ones.

    Raises:
        UserError: There is none.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    problems = {step: damage(path) for step, path in checkpoints(run).items()}
    common = set.intersection(*gather_object([{step for step, problem in problems.items() if problem is None}]))
    passed_over = [
        f"{_PREFIX}{step} ({problem or 'missing or damaged on another machine'})"
        for step, problem in problems.items()
        if step > max(common, default=-1)
    ]
    if not common:
        damaged = f"; damaged: {', '.join(passed_over)}" if passed_over else ""
        raise UserError(
            f"resume_from_checkpoint: output_dir={run} holds no checkpoint to go on from{damaged}. Start again with "
            "--overwrite true."
        )
    newest = run / f"{_PREFIX}{max(common)}"
    if passed_over and PartialState().is_main_process:
        logger.warning(f"Going on from {newest.name}: not whole are {', '.join(passed_over)}.")
    return newest


def finish(unfinished: Path, target: Path) -> None:
    """Give a checkpoint that has all its files its manifest and its place."""
    files = sorted(path for path in unfinished.rglob("*") if path.is_file())
    names = {path.relative_to(unfinished).as_posix(): path for path in files}
    manifest = {
        "sizes": {name: path.stat().st_size for name, path in names.items()},
        "sha256": {name: sha256(path) for name, path in names.items()},
    }
    write_atomically(unfinished / MANIFEST, to_json(manifest))
    put_in_place(unfinished, target)


def put_in_place(unfinished: Path, target: Path) -> None:
    """Move a folder out of `.unfinished/` to where it belongs, in one step; an older one there goes."""
    discard(target)
    os.rename(unfinished, target)
    clean_up(target.parent, only_if_empty=True)


def rotate(run: Path, step: int, limit: int | None, best: Path | None = None) -> None:
    """Delete the oldest checkpoints so that `limit` are left, the newest whole one and `best` among them.

    By their steps, not by clocks, which may go back. Those beyond the step that the run is at go in any case: a run that went on
    from an earlier checkpoint has left them behind, and must not go on from that past later.

    Args:
        run: The run folder.
        step: The step that the run is at, whose checkpoint is saved.
        limit: How many may stay; None or 0: all.
        best: One that stays in any case.
    """
    for path in [path for other, path in checkpoints(run).items() if other > step and path != best]:
        discard(path)
    oldest_first = list(checkpoints(run).values())
    surplus = len(oldest_first) - (limit or len(oldest_first))
    if surplus > 0:
        whole = (path for path in reversed(oldest_first) if damage(path) is None)
        newest = [next(whole, None)]
        for path in [path for path in oldest_first if path not in (best, *newest)][:surplus]:
            discard(path)
    clean_up(run, only_if_empty=True)


def discard(folder: Path) -> None:
    """Delete a folder in a run so that nobody sees it half deleted; nothing happens where there is none."""
    if folder.is_dir():
        leaving = folder.parent / UNFINISHED / f"old-{folder.name}"
        shutil.rmtree(leaving, ignore_errors=True)
        leaving.parent.mkdir(exist_ok=True)
        os.rename(folder, leaving)
        shutil.rmtree(leaving, ignore_errors=True)  # what a network file system keeps for now goes at the next start


def clean_up(run: Path, *, only_if_empty: bool = False) -> None:
    """Delete `.unfinished/`, what a killed process left in it included unless `only_if_empty`."""
    if only_if_empty:
        with suppress(OSError):
            (run / UNFINISHED).rmdir()
    else:
        shutil.rmtree(run / UNFINISHED, ignore_errors=True)
