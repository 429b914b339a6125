"""Guards of TRL's online trainers: numbers that are not finite end a run before they reach a weight or a checkpoint.

DeepSpeed updates weights within the backward pass. There losses are looked at before it; a gradient cannot be: one that is not
finite reaches the weights in memory, and the run ends before a checkpoint.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ex2.base.errors import RunStopped
from ex2.rl.trl_names import Mixin

_CURE = "Lower learning_rate or raise beta."


class TrainingDiverged(RunStopped):
    """A reward, loss or gradient is not finite, or the KL is too high. The message names the file with the samples."""


class Guards(Mixin):
    """Mixin for TRL's online trainers and PPOTrainer: guards loss and gradient, and keeps the scores of a rollout."""

    _scores: Tensor | None = None
    _losses: list[tuple[Tensor, dict[str, Any]]]  # of the micro-batches of an update: whether each is finite
    _micro_batch: dict[str, Any]  # the last one of an update

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._losses, self._micro_batch = [], {}

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._scores = self._total(rewards_per_func)
        return rewards_per_func

    def _total(self, rewards_per_func: Tensor) -> Tensor:
        """Score (B,) of each completion of all processes from its rewards (B, number of rewards)."""
        scores = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        # A reward of None (NaN here) does not apply to a completion; one that no reward applies to has no score.
        return scores.masked_fill(rewards_per_func.isnan().all(dim=1), math.nan)

    def _all_scores(self) -> Tensor:
        """Scores of the completions of all processes in the newest rollout."""
        assert self._scores is not None, "a rollout is sampled and rewarded first"
        return self._scores

    def _of_this_process(self, values: Tensor, rows: int) -> Tensor:
        """The `rows` values of this process's completions among those of all processes."""
        first = self.accelerator.process_index * rows
        return values[first : first + rows]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.model.training:
            self._losses.append((torch.isfinite(loss).all(), inputs))
            if self.is_deepspeed_enabled:
                self._check_losses()
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One micro-batch; after the last one of an update, and before weights change, all its losses are looked at.

        At once, because looking makes a device, and all processes, wait.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_losses()
        return loss

    def _check_losses(self) -> None:
        """Raise `TrainingDiverged` where the last micro-batch of an update has its loss and any of them is not finite."""
        if self.accelerator.sync_gradients and self._losses:
            finite, batches = zip(*self._losses, strict=True)
            self._losses, self._micro_batch = [], batches[-1]
            if not self._on_all(torch.stack(finite).all()):
                self._stop("the loss is not finite", batches[int(torch.stack(finite).int().argmin())])

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        if norm is not None and self.accelerator.scaler is None:  # a scaler of float16 skips such updates by itself
            finite = torch.tensor(math.isfinite(norm), device=self.accelerator.device)
            self._guard(finite, "the gradient is not finite", self._micro_batch)
        return norm

    def _guard(self, ok: Tensor, what: str, batch: dict[str, Any], cure: str = _CURE) -> None:
        """Raise `TrainingDiverged` where `ok` is false on any process.

        Decided by all processes together: one that stopped alone would leave the others waiting in their next reduction.
        """
        if not self._on_all(ok):
            self._stop(what, batch, cure)

    def _on_all(self, ok: Tensor) -> bool:
        return bool(self.accelerator.reduce((~ok).float(), reduction="sum") == 0)

    def _stop(self, what: str, batch: dict[str, Any], cure: str = _CURE) -> NoReturn:
        path = self._dump(batch)
        raise TrainingDiverged(
            f"Training stops at step {self.state.global_step}: {what}. The samples of this step are in {path}; earlier "
            f"checkpoints are untouched. {cure}"
        )

    def _dump(self, batch: dict[str, Any]) -> Path:
        """Write the completions of a bad step with their numbers as JSON lines, one file a process, and return its path.

        With several processes it is a pattern for the files of all.
        """
        file_name = f"bad_step_{self.state.global_step}_rank{{}}.jsonl"
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            column: self._tokenizer.batch_decode(batch[f"{column}_ids"], skip_special_tokens=True)
            for column in ("prompt", "completion")
        }
        numbers = {name: value.tolist() for name, value in batch.items() if _is_numbers(value, len(texts["prompt"]))}
        columns = texts | numbers
        with (folder / file_name.format(self.accelerator.process_index)).open("w", encoding="utf-8") as file:
            for row in zip(*columns.values(), strict=True):
                file.write(json.dumps(_finite_json(dict(zip(columns, row, strict=True))), ensure_ascii=False) + "\n")
        return folder / file_name.format(0 if self.accelerator.num_processes == 1 else "*")


class GuardedRollouts(Guards):
    """Mixin for GRPO and RLOO as TRL has them: guards the scores of a rollout too."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        # TRL makes numbers of advantages that are not finite: what is wrong shows in the scores only.
        batch["score"] = self._of_this_process(self._all_scores(), len(inputs))
        if self.model.training:
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
