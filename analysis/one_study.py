"""One `ex2 study` in a process of its own, as the scripts in this folder repeat it: what is finished is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def study(folder: Path, options: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run `ex2 study` with `options` into `folder`; what it prints goes to ``folder.log``.

    Args:
        folder: Folder of the study.
        options: Options of `ex2 study` and of the training, without the folder.
        environment: Added to the environment.

    Raises:
        SystemExit: It failed; the message names the log.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    command = [sys.executable, "-c", "from ex2.cli import main; main()", "study", *options, "--out", str(folder)]
    with log.open("a", encoding="utf-8") as file:
        result = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {}), check=False
        )
    if result.returncode:
        raise SystemExit(f"error: {folder.name} ended with status {result.returncode}: see {log}.")
