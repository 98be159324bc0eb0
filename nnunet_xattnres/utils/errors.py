"""Errors that the command line prints as one line and without a traceback."""


class UserError(Exception):
    """The arguments or the input are wrong: what was expected, what came, what to do."""

    exit_code = 2


class StepFailedError(UserError):
    """A command that was started failed; the message says where its log is."""

    exit_code = 1
