"""Errors that the user can correct, and the loss of a process."""


class ProcessLost(Exception):
    """Another process of the run is gone or does not answer. The message is one line."""


class UsageError(Exception):
    """Something the user gave (a file, a folder, a configuration value) cannot be used.

    The message is one line: what was wrong, and what to do. Command-line tools print it without a traceback
    and exit with :data:`EXIT_CODE`.
    """

    EXIT_CODE = 2

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # a name or value in it may hold line breaks
