"""Makes resumed runs of TRL's online trainers ask the prompts in the order that an uninterrupted run would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME


class ResumeInOrder:
    """Mixin for TRL's GRPOTrainer and RLOOTrainer.

    TRL's sampler draws the order of each epoch from a generator of its own, which is not part of a checkpoint: a resumed run
    would begin again with the order of the first epoch. Goes away when TRL's RepeatSampler follows `set_epoch`.
    """

    _epochs_to_skip = 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        state = Path(resume_from_checkpoint) / TRAINER_STATE_NAME
        if state.is_file():
            self._epochs_to_skip = int(json.loads(state.read_text(encoding="utf-8"))["epoch"])

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)  # type: ignore[misc]
        for _ in range(self._epochs_to_skip if sampler.shuffle else 0):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        self._epochs_to_skip = 0
        return sampler
