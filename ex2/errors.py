"""The one exception class for mistakes that the user can mend."""


class UserError(ValueError):
    """A mistake in options, files or folders. The message names the option or file, its value and the cure.

    Commands print it as one line on standard error and exit with status 2, without a traceback.
    """
