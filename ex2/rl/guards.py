"""Guards of TRL's online trainers: numbers that are not finite end a run before they reach a weight or a checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ex2.base.errors import RunStopped


class TrainingDiverged(RunStopped):
    """A reward, loss or gradient is not finite, or the KL is too high. The message names the file with the samples."""


class Guards:
    """Mixin for TRL's online trainers and PPOTrainer: guards loss and gradient, and keeps the scores of a rollout."""

    _scores: Tensor | None = None
    _micro_batch: dict[str, Any]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        trainer: Any = self
        rewards_per_func: Tensor = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        # (B of all processes, number of rewards)
        scores = (rewards_per_func * trainer.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        # A reward of None (NaN here) does not apply to a completion; one that no reward applies to has no score.
        self._scores = scores.masked_fill(rewards_per_func.isnan().all(dim=1), math.nan)
        return rewards_per_func

    def _own_scores(self, rows: int) -> Tensor:
        """Scores (B,) of this process's completions in the newest rollout."""
        assert self._scores is not None
        first = self.accelerator.process_index * rows  # type: ignore[attr-defined]
        return self._scores[first : first + rows]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self._guard(torch.isfinite(loss).all(), "the loss is not finite", inputs)
        self._micro_batch = inputs
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        trainer: Any = self
        if norm is not None and trainer.accelerator.scaler is None:  # a scaler of float16 skips such updates by itself
            finite = torch.tensor(math.isfinite(norm), device=trainer.accelerator.device)
            self._guard(finite, "the gradient is not finite", self._micro_batch)
        return norm

    def _guard(
        self, ok: Tensor, what: str, batch: dict[str, Any], cure: str = "Lower learning_rate or raise beta."
    ) -> None:
        """Raise `TrainingDiverged` where `ok` is false on any process.

        Decided by all processes together: one that stopped alone would leave the others waiting in their next reduction.
        """
        trainer: Any = self
        if trainer.accelerator.reduce((~ok).float(), reduction="sum") > 0:
            path = self._dump(batch)
            raise TrainingDiverged(
                f"Training stops at step {trainer.state.global_step}: {what}. The samples of this step are in {path}; earlier "
                f"checkpoints are untouched. {cure}"
            )

    def _dump(self, batch: dict[str, Any]) -> Path:
        """Write the completions of a bad step with their numbers as JSON lines, one file a process, and return its path.

        With several processes it is a pattern for the files of all.
        """
        trainer: Any = self
        file_name = f"bad_step_{trainer.state.global_step}_rank{{}}.jsonl"
        folder = Path(trainer.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            column: trainer._tokenizer.batch_decode(batch[f"{column}_ids"], skip_special_tokens=True)
            for column in ("prompt", "completion")
        }
        numbers = {name: value.tolist() for name, value in batch.items() if _is_numbers(value, len(texts["prompt"]))}
        columns = texts | numbers
        with (folder / file_name.format(trainer.accelerator.process_index)).open("w", encoding="utf-8") as file:
            for row in zip(*columns.values(), strict=True):
                file.write(json.dumps(_finite_json(dict(zip(columns, row, strict=True))), ensure_ascii=False) + "\n")
        return folder / file_name.format(0 if trainer.accelerator.num_processes == 1 else "*")


class GuardedRollouts(Guards):
    """Mixin for GRPO and RLOO as TRL has them: guards the scores of a rollout too."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trainer: Any = self
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        # TRL makes numbers of advantages that are not finite: what is wrong shows in the scores only.
        batch["score"] = self._own_scores(len(inputs))
        if trainer.model.training:
            self._guard(torch.isfinite(batch["score"]).all(), "a reward is not finite", batch)
        return batch


def _is_numbers(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0 and len(value) == rows


def _finite_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
