"""What the main process of a run does for all: they go on together, or end together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ex2.base.errors import UserError


def on_main_process(action: Callable[[], Any]) -> None:
    """Call `action` on the main process; all processes must call this.

    Raises:
        UserError: `action` did, on the main process, which says so.
        SystemExit: The same on the others, with the status that the error has.
    """
    state = PartialState()
    problem: list[UserError | None] = [None]
    if state.is_main_process:
        try:
            action()
        except UserError as error:
            problem = [error]
    broadcast_object_list(problem)
    if problem[0] is not None:
        if not state.is_main_process:
            raise SystemExit(2)
        raise problem[0]
