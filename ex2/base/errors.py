"""Exceptions that end a command with one line: mistakes that the user can mend, and runs that stop before their end."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in options, files or folders. The message names the option or file, its value and the cure.

    Commands print it as one line on standard error and exit with status 2, without a traceback.
    """


class RunStopped(RuntimeError):
    """A run that ended before its time though its options are right; the message says why and how to go on.

    All processes of the run raise it together. Training scripts print it once, without a traceback, and exit with `status`.
    """

    status = 1


def one_line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(text: str, most: int = 1500) -> str:
    """A text without its middle where it is longer than `most` characters: what is wrong stands first, the cure last."""
    return text if len(text) <= most else f"{text[: most - 500]} ... {text[-490:]}"


def reason(error: BaseException) -> str:
    """The first line of an error's text, with its kind where the text alone says little."""
    told = first_line(error)
    return told if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: {told}"


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question after the known name that is nearest to `name`, with a blank before it; nothing where none is near.

    Args:
        name: What the user wrote; upper and lower case are the same.
        known: What there is.
        cutoff: How alike two names have to be, from 0 to 1, by `difflib`.
    """
    written = {word.casefold(): word for word in known}
    nearest = get_close_matches(name.casefold(), written, n=1, cutoff=cutoff)
    return f" Did you mean {written[nearest[0]]}?" if nearest else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, else the name of its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
