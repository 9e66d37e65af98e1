"""Exceptions that the command line turns into an exit code."""

USER_ERROR_EXIT_CODE = 2
"""Of every process of a run that ends with a UserError: launchers and job files start it again after any other code."""


class UserError(Exception):
    """A mistake that the user can correct: one line with the value and the expectation, and a hint.

    The command line prints `error: ...` and `hint: ...` on stderr and exits with code 2. Any other exception that
    reaches the user is a bug and keeps its traceback.

    >>> raise UserError("train.steps = -3, expected a whole number above 0", hint="set train.steps=500")
    """

    def __init__(self, message: str, *, hint: str | None = None):
        if len(message) > 2_000:  # a value from a file
            message = f"{message[:1_500]} ... {message[-400:]}"
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class AlreadyReported(Exception):
    """The run ends with a UserError that another of its processes prints: exit code 2, no output."""


class PeerLost(Exception):
    """Another process of the run died: exit code 1; a launcher may restart this one."""
