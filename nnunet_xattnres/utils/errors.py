"""Errors that the command line prints as one line, without a traceback."""


class UserError(Exception):
    """Wrong arguments or wrong input. The message says what was expected, what came, and what to do."""

    exit_code = 2


class StepFailedError(UserError):
    """A command or a worker process failed. The message says where to look or what to do."""

    exit_code = 1
