"""Entry point of the training scripts: parse, dry run or run, and errors as one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ex2.base.errors import RunStopped, UserError, one_line, shortened
from ex2.base.files import refused_by_disk
from ex2.base.shown import printable

_INTERRUPTED = 130  # what a process that SIGINT ends has in a shell


def main(algorithm: str, argv: Sequence[str] | None = None) -> None:
    """Run `algorithm` (ppo, grpo, rloo) with command line options.

    Exit status 2 for what the user can mend, 1 for a run that had to stop, 143 for one that SIGTERM stopped.
    """
    use_cores_well()
    keep_quiet()
    with ending_in_one_line():
        from ex2.options.parse import parse_options

        options = parse_options(algorithm, argv)
        if options.ex2.dry_run:
            from ex2.run.dry_run import describe

            if os.environ.get("RANK", "0") == "0":
                print(describe(options))
            return
        from ex2.run.training import run

        run(options)


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """End the process with one line and a status of its own for what the user can mend, and for Ctrl-C."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        # Else Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        _say("Interrupted.")
        sys.exit(_INTERRUPTED)
    except RunStopped as stop:
        if os.environ.get("RANK", "0") == "0":
            _say(f"error: {stop}" if stop.status == 1 else str(stop))
        if stop.status == _INTERRUPTED and os.environ.get("WORLD_SIZE", "1") != "1":
            os._exit(stop.status)  # the others may be in the middle of a step, and Python's end would wait for them
        sys.exit(stop.status)
    except MemoryError:
        _say("error: There is not enough memory for this: ask for less at once.")
        sys.exit(2)
    except Exception as error:
        # OSError: folders that cannot be written, files that vanish; and full disks, in the words of many libraries.
        if not isinstance(error, (UserError, OSError)) and not refused_by_disk(error):
            raise
        _say(f"error: {printable(shortened(one_line(error)))}")
        sys.exit(2)


def _say(line: str) -> None:
    """Print a line to standard error; where that is closed or full, the status alone has to tell."""
    if sys.stderr is not None:  # else print would take standard output
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def keep_quiet() -> None:
    """Leave out what users can do nothing about; call it before libraries are imported.

    transformers says that an option which EX2 sets under its present name will have another one, and where there is no terminal
    it fills logs with bars that last for a second. bitsandbytes says where it is installed that a faster kernel for 4-bit weights
    on CPUs is not, whatever weights are used. Characters that the output of another locale lacks stand as code points.
    """
    with suppress(AttributeError):  # there is no output, or one of a notebook, which has no such method
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings(
        "ignore", message=r"`(is_)?gradient_checkpointing\w*` is deprecated", category=FutureWarning
    )
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def use_cores_well() -> None:
    """Set up OpenMP for CPU work; call it before torch is imported.

    `accelerate launch` sets OMP_NUM_THREADS to 1 for a CPU process, whether or not the user wants that; the process takes its
    share of the cores instead (`taskset` limits them). Other launchers' settings stay. Waiting threads of GNU OpenMP
    spin for a short time and then sleep: with its default, one busy neighbour slows everything down (docs/architecture.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if by_accelerate:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // processes))
