"""The one exception a user is meant to see, and two that say that another process has seen it."""


class UserError(Exception):
    """Something the user can mend: one line with the value found and what was expected, and a hint.

    The command line prints it as `error: ...` and `hint: ...` on stderr and ends with exit code 2.
    Any other exception that reaches the user is a bug and keeps its traceback.

    >>> raise UserError("train.steps = -3, expected a whole number above 0", hint="set train.steps=500")
    """

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class AlreadyReported(Exception):
    """The run ends by an error of the user's that another process of it tells: exit code 2, without a word."""


class PeerLost(Exception):
    """Another process of the run is gone: exit code 1, and whoever started this one may start it again."""
