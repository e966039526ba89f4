"""What an error means at the command line: an exit code and one sentence."""

import errno

import click

from study.commands.parsing import misuse
from trainers.errors import EncoreError

FAILED, MISUSE, INTERRUPTED = 1, 2, 130
NOBODY_READS = 141
"""The code a shell reports after SIGPIPE: the reader of the output closed the pipe early."""


def exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that a user can act on; None for a bug of ours."""
    if isinstance(error, EncoreError):
        return error.exit_code
    if isinstance(error, click.ClickException):
        return MISUSE
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # of an argument
        return MISUSE
    return FAILED if isinstance(error, LookupError | OSError) else None


def sentence(error: Exception) -> str:
    """Return one sentence: what is wrong and what to do."""
    if isinstance(error, click.ClickException):
        return misuse(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left on the disk; make room and run the same command again: it goes on"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror.lower()}"
    if exit_code(error) is None:
        return f"unexpected {type(error).__name__}: {error}; --debug shows where"
    return str(error)
