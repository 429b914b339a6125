"""Exact resume of TRL's online trainers: whole checkpoints, and the prompts in the order of an uninterrupted run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ex2.base.errors import UserError, reason
from ex2.base.files import shaped_as_written
from ex2.rl.checkpoints import UNFINISHED, clean_up, finish, rotate
from ex2.rl.interruptions import NotWritten, written_by_all
from ex2.rl.trl_names import Mixin


@contextmanager
def loading(checkpoint: str | None) -> Iterator[None]:
    """Say of a checkpoint that it cannot be loaded, though its checksums are right: somebody else has written it.

    Raises:
        UserError: With the checkpoint and what torch says.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UserError(
            f"resume_from_checkpoint: {checkpoint} cannot be loaded ({reason(error)}). Go on from another one, or start again "
            "with --overwrite true."
        ) from error


def state_of(checkpoint: Path) -> TrainerState:
    """Where a run was when it wrote a checkpoint.

    Raises:
        UserError: The file that says so is damaged.
    """
    path = checkpoint / TRAINER_STATE_NAME
    with shaped_as_written(path, "Go on from another checkpoint, or start again with --overwrite true."):
        state = TrainerState.load_from_json(str(path))
        for name in ("epoch", "global_step", "max_steps", "num_train_epochs", "train_batch_size"):
            if not isinstance(value := getattr(state, name), (int, float)):
                raise TypeError(f"{name}={value!r} is no number")
        return state


class ExactResume(Mixin):
    """Mixin for TRL's online trainers and PPOTrainer.

    The Trainer writes into `checkpoint-N` and deletes older ones file by file. Here all processes write into
    `.unfinished/checkpoint-N`, which is renamed when the last of them is done; only then older ones go.

    TRL's sampler draws the order of each epoch from a generator of its own, which is not part of a checkpoint: a resumed run
    would begin again with the order of the first epoch. Goes away when TRL's RepeatSampler follows `set_epoch`.
    """

    _epochs_to_skip = 0
    _saving = False

    def _inner_training_loop(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        if self.args.should_save:
            clean_up(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is not None:
            self._epochs_to_skip = int(state_of(Path(resume_from_checkpoint)).epoch)
        return super()._inner_training_loop(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self._epochs_to_skip if sampler.shuffle else 0):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        self._epochs_to_skip = 0
        return sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # A finished run was resumed. The Trainer asks after each update whether it was the last, not before the first.
            self.control.should_training_stop = True
            self._rotate(Path(self.args.output_dir))  # it may have been killed after its last save
            return
        super()._run_epoch(*args, **kwargs)

    # ---------------------------------------------------------------- loading

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with loading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(checkpoint):
            super()._load_rng_state(checkpoint)

    # ---------------------------------------------------------------- saving

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        run = Path(self._get_output_dir(trial))
        unfinished, target = run / UNFINISHED / name, run / name
        try:
            with written_by_all(name, run):
                self._write(model, trial, unfinished, target)
            # Now the files of all processes are there. `should_save` holds once a run, or once a machine with its own disk.
            with written_by_all(name, run):
                if self.args.should_save:
                    finish(unfinished, target)
        except NotWritten:
            clean_up(run)
            raise
        self._rotate(run)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(target))

    def _rotate(self, run: Path) -> None:
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(run, self.state.global_step, self.args.save_total_limit, None if best is None else Path(best))

    def _write(self, model: torch.nn.Module, trial: Any, unfinished: Path, target: Path) -> None:
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
            self._add_to_checkpoint(unfinished)
        finally:
            self._saving = False
        if self.state.best_model_checkpoint == str(unfinished):
            self.state.best_model_checkpoint = str(target)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))

    def _add_to_checkpoint(self, folder: Path) -> None:
        """Write what the Trainer does not know of; all processes call it."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saving:  # else it would be renamed while it is uploaded
            super()._push_from_checkpoint(checkpoint_folder)
