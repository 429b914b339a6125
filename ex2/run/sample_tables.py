"""Tables of sampled texts for the mirrors of a run that can show them: wandb and trackio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

_WITH_TABLES = ("wandb", "trackio")  # tensorboard has none


class SampleTables:
    """Logs the texts of every so-many-th rollout as a table `samples`, a row a text with its reward terms.

    Args:
        report_to: Mirrors of the run.
        every: Updates from one table to the next, those of whole rollouts; 0: no tables.
    """

    def __init__(self, report_to: Sequence[str], every: int) -> None:
        self.mirrors = [name for name in _WITH_TABLES if name in report_to] if every else []
        self.every = every

    def log(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the rows of samples.jsonl of the rollout that begins after `step` updates, if it is its turn."""
        if not self.mirrors or step % self.every:
            return
        import pandas as pd

        frame = pd.DataFrame([{**row, **row["scores"]} for row in rows]).drop(columns="scores")
        for name in self.mirrors:
            mirror = import_module(name)
            mirror.log({"samples": mirror.Table(dataframe=frame), "train/global_step": step})
