"""What an error means at the command line: an exit code and one sentence."""

import errno

from storage.errors import (
    DatabaseTooNew,
    DatabaseUnusable,
    RemoteUnusable,
    StudyInUse,
    StudyNotFound,
    StudyTooOld,
)
from study.config.schema import ConfigError

FAILED, MISUSE, TOO_MANY_FAILURES, DATA_REFUSED, NOTHING_TO_SELECT, INTERRUPTED = 1, 2, 3, 4, 5, 130
NOBODY_READS = 141
"""As a shell reports whom SIGPIPE has ended: what reads the output went away before its end."""


def exit_code(error: Exception) -> int | None:
    """Give the exit code of an error that a user can act on; None for a bug of ours."""
    # By name: the modules that hold some of these classes take seconds to import.
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ClickException", "ConfigError"}:
        return MISUSE
    if "TooManyFailures" in names:
        return TOO_MANY_FAILURES
    if "DatasetError" in names:
        return DATA_REFUSED
    if "NothingToSelect" in names:
        return NOTHING_TO_SELECT
    database = (StudyInUse, StudyNotFound, StudyTooOld, DatabaseUnusable, DatabaseTooNew)
    ours = (*database, RemoteUnusable, ConfigError)
    files = {"WeightsUnavailable", "NotOurWeights", "UnreadablePhoto", "ExportRefused"}
    if isinstance(error, (*ours, LookupError, OSError)) or names & files:
        return FAILED
    return None


def sentence(error: Exception) -> str:
    """Say in one sentence what is wrong and what to do."""
    if hasattr(error, "format_message"):  # the parser's own, of click or of Typer's copy of it
        return str(error.format_message())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left on the disk; make room and run the same command again: it goes on"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror.lower()}"
    if exit_code(error) is None:
        return f"unexpected {type(error).__name__}: {error}; --debug shows where"
    return str(error)
