"""One run from training to analysis, as the scripts in this folder repeat it: what is finished is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EX2 = (sys.executable, "-c", "from ex2.cli import main; main()")


def train_generate_analyze(
    folder: Path,
    train: Sequence[str],
    *,
    algorithm: str = "ppo",
    launcher: Sequence[str] = (sys.executable,),
    generate: Sequence[str] = (),
    analyze: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Train a policy into `folder`, sample it, and analyse its descriptions into ``folder/analysis``.

    A run that was interrupted goes on from its newest checkpoint, or starts anew where it has none; `ex2 generate` goes on by
    itself. What the commands print goes to ``folder.log``.

    Args:
        folder: Run folder.
        train: Options of the training script, without output_dir.
        algorithm: Which training script: ppo, grpo or rloo.
        launcher: What starts the training script.
        generate: Further options of `ex2 generate`.
        analyze: Further options of `ex2 analyze`.
        environment: Added to the environment of all commands.

    Raises:
        SystemExit: A command failed; the message names the log.
    """
    start = [*launcher, str(ROOT / "train" / f"{algorithm}_ex2.py"), *train, "--output_dir", str(folder)]
    if (folder / "config.yaml").is_file():
        resume = ["--resume_from_checkpoint", "true"] if any(folder.glob("checkpoint-*")) else ["--overwrite", "true"]
        start += resume
    descriptions = folder / "descriptions.jsonl"
    steps = [
        (folder / "README.md", start),  # the model card is the last thing that a run writes
        (None, [*EX2, "generate", str(folder), "--out", str(descriptions), *generate]),
        (
            folder / "analysis" / "summary.json",
            [*EX2, "analyze", str(descriptions), "--out", str(folder / "analysis"), *analyze],
        ),
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(folder.name + ".log")
    with log.open("a", encoding="utf-8") as file:
        for done, command in steps:
            if done is not None and done.is_file():
                continue
            result = subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(environment or {}), check=False
            )
            if result.returncode:
                raise SystemExit(f"error: {folder.name} ended with status {result.returncode}: see {log}.")
