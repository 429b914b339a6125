"""What happens to long runs from outside: a disk that takes no more, Ctrl-C, and a SIGTERM because the machine is needed.

Each ends the run on all its processes, in one line that says which checkpoint it can go on from.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import TrainerCallback

from ex2.base.errors import RunStopped, first_line
from ex2.base.files import refused_by_disk
from ex2.rl.checkpoints import checkpoints, damage

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

RESUME = "--resume_from_checkpoint true"


class NotWritten(RunStopped):
    """The disk took no more."""


class Preempted(RunStopped):
    """SIGTERM came, and a checkpoint was saved. The status is what a process that SIGTERM ends has in a shell."""

    status = 128 + signal.SIGTERM


class Interrupted(RunStopped):
    """Ctrl-C. The status is what a process that SIGINT ends has in a shell."""

    status = 128 + signal.SIGINT


@contextmanager
def going_on_told(run: Path) -> Iterator[None]:
    """Let Ctrl-C end a run in one line that says how it can go on.

    Raises:
        Interrupted: Ctrl-C came.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted. {_way_on(run)}") from None


@contextmanager
def written_by_all(what: str, run: Path) -> Iterator[None]:
    """Write something of a run: all processes succeed, or all of them stop.

    All processes must enter it, those that write nothing too. They leave it together.

    Args:
        what: What is written, for the message.
        run: The run folder.

    Raises:
        NotWritten: On every process, where the disk of one of them is full, over quota, read-only or broken.
    """
    problem = None
    try:
        yield
    except Exception as error:
        if not refused_by_disk(error):
            raise
        problem = f"{first_line(error)}; {shutil.disk_usage(run).free / 2**30:.1f} GiB are free on the disk of {run}"
    problems = [text for text in gather_object([problem]) if text is not None]
    if problems:
        raise NotWritten(f"{what} could not be written ({problems[0]}). {_way_on(run, 'make room and ')}")


def _way_on(run: Path, first: str = "") -> str:
    whole = [path.name for path in checkpoints(run).values() if damage(path) is None]
    if not whole:
        return f"There is no checkpoint yet: {first}start again with --overwrite true."
    return f"{whole[-1]} is whole: {first}go on with {RESUME}."


class LeaveOnSigterm(TrainerCallback):
    """Once SIGTERM has come to any process, all save a checkpoint at the end of the rollout and raise `Preempted`.

    Only there can a run be resumed exactly. Further signals change nothing: launchers and schedulers may both send one.

    Args:
        updates_per_rollout: Optimizer steps taken on each rollout.
    """

    def __init__(self, updates_per_rollout: int) -> None:
        self.updates_per_rollout = updates_per_rollout
        self._asked = False
        self._leaving = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this context SIGTERM is heeded; outside it ends the process at once, as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread only
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *args: Any) -> None:
        self._asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.updates_per_rollout == 0 and any(gather_object([self._asked])):
            self._leaving = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._leaving:
            raise Preempted(
                f"SIGTERM: the run stops after step {state.global_step} of {state.max_steps}, whose checkpoint is saved. "
                f"{RESUME} goes on."
            )
