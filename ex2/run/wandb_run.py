"""The wandb mirror of a run: one wandb run a run folder, over all its resumes, and no training when wandb would fail.

The other mirrors of `report_to` need no server at their start.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError, first_line
from ex2.base.files import write_atomically
from ex2.run.processes import on_main_process

WANDB_ID = "wandb_id.txt"


def check_wandb(report_to: list[str]) -> None:
    """See whether wandb's server answers and takes the key, before any weight is loaded; nothing is left behind.

    Raises:
        UserError: It does not, or wandb is not installed.
    """
    if "wandb" in report_to:
        if find_spec("wandb") is None:
            raise UserError("report_to=wandb needs wandb: run `pip install 'ex2[wandb]'`.")
        _on_main_process(_log_in)


def start_wandb(report_to: list[str], run: Path, name: str | None) -> Any:
    """Start a wandb run for a run folder, the one that the folder began with; transformers logs to the run that it finds.

    The id is kept in the folder. WANDB_RUN_ID, WANDB_RESUME and WANDB_PROJECT win, as everywhere in wandb.

    Args:
        report_to: Mirrors that were asked for.
        run: The run folder; it exists.
        name: Name of the run (`run_name`); None: wandb chooses.

    Returns:
        The wandb run, to be finished at the end; None on other processes, without wandb, and where the program that calls EX2
        has started one of its own.

    Raises:
        UserError: The server does not answer, or refuses.
    """
    if "wandb" not in report_to:
        return None
    import wandb

    if wandb.run is not None:
        return None
    _on_main_process(lambda: _start(run / WANDB_ID, name))
    return wandb.run


def _log_in() -> None:
    import wandb

    if wandb.setup().settings.mode not in ("offline", "dryrun", "disabled"):
        wandb.login(verify=True)


def _start(id_file: Path, name: str | None) -> None:
    import wandb

    kept = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else ""
    run_id = os.environ.get("WANDB_RUN_ID") or kept or secrets.token_hex(4)
    write_atomically(id_file, f"{run_id}\n".encode())
    wandb.init(
        id=run_id,
        resume=os.environ.get("WANDB_RESUME", "allow"),  # type: ignore[arg-type]
        project=os.environ.get("WANDB_PROJECT", "huggingface"),
        name=name,
    )


def _on_main_process(action: Callable[[], Any]) -> None:
    """Call wandb on the main process; where it fails, all processes end, and the main one says why."""
    import wandb

    def call() -> None:
        try:
            action()
        except (wandb.Error, OSError) as error:
            if wandb.run is None:
                _stop_service()
            raise UserError(
                f"report_to=wandb: {first_line(error).rstrip('.')}. Log in (`wandb login`, or WANDB_API_KEY), check "
                "WANDB_BASE_URL and the connection, write to disk only (WANDB_MODE=offline; `wandb sync` uploads later), or do "
                "without (--report_to none)."
            ) from error

    on_main_process(call)


def _stop_service() -> None:
    """End wandb's own process: at exit wandb would wait for it, and it for a server that may never answer."""
    import psutil
    import wandb

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name().startswith("wandb"):
                child.kill()
    with suppress(Exception, SystemExit):  # it would take over the exit status of the process that was killed
        wandb.teardown()
