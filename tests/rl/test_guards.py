"""The guards where weights are updated within the backward pass, as DeepSpeed does."""

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


@pytest.mark.parametrize("deepspeed", [True, False])
def test_with_deepspeed_a_loss_is_looked_at_before_the_backward_pass_that_updates_weights(
    deepspeed: bool, make_trainer: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two micro-batches the first one's loss is not finite: its own backward pass only adds up gradients."""
    trainer = make_trainer(per_device_train_batch_size=4, steps_per_generation=2, gradient_accumulation_steps=2)
    own_loss, backward, calls = trainer._compute_loss, trainer.accelerator.backward, []

    def loss(*args: Any) -> torch.Tensor:
        trainer.is_deepspeed_enabled = deepspeed  # from here on: before, transformers would ask for the package
        return own_loss(*args) * (torch.nan if not calls else 1.0)

    def noted(loss: Any, **options: Any) -> None:
        calls.append(trainer.accelerator.sync_gradients)
        backward(loss)

    monkeypatch.setattr(trainer, "_compute_loss", loss)
    monkeypatch.setattr(trainer.accelerator, "backward", noted)
    with pytest.raises(TrainingDiverged, match="the loss is not finite"):
        trainer.train()
    assert calls == ([False] if deepspeed else [False, True])
