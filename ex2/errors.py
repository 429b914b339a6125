"""The one exception class for mistakes that the user can mend, and what its messages quote of other errors."""


class UserError(ValueError):
    """A mistake in options, files or folders. The message names the option or file, its value and the cure.

    Commands print it as one line on standard error and exit with status 2, without a traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, else the name of its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
