"""Errors that a user can mend: the command line prints their one line and no traceback."""


class UserError(Exception):
    """What was expected, what came, what to do, in one line. Exit code 2."""


class StepFailedError(UserError):
    """A command that was started failed; the message says where its log is. Exit code 1."""
