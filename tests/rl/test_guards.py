"""The guard of gradients where weights are updated within the backward pass, as DeepSpeed does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ex2.rl.guards import TrainingDiverged
from ex2.rl.ppo_trainer import PPOTrainer


def test_a_gradient_that_was_applied_already_still_ends_the_run_before_a_checkpoint(
    make_trainer: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(max_steps=2, save_strategy="steps", save_steps=1)
    backward = trainer.accelerator.backward

    def as_deepspeed_does(loss: Any, **options: Any) -> None:
        backward(loss, **options)
        weight = next(p for p in trainer.model.parameters() if p.grad is not None)
        weight.grad.fill_(torch.nan)
        trainer.optimizer.step()

    monkeypatch.setattr(trainer.accelerator, "backward", as_deepspeed_does)
    with pytest.raises(TrainingDiverged, match="the gradient is not finite"):
        trainer.train()
    assert any(p.isnan().any() for p in trainer.model.parameters())
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))
