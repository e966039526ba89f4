"""The errors of databases and remote files; `trainers.errors` draws the whole tree."""

from trainers.errors import EncoreError


class StudyNotFound(EncoreError):
    """There is no study of that name, or no database to look in."""

    exit_code = 5


class NoSuchStudy(StudyNotFound):
    """There are studies, but none of that name."""

    exit_code = 2


class StudyInUse(EncoreError):
    """Another process owns the study, or has taken it over."""


class StudyTooOld(EncoreError):
    """An earlier version began the study: it can be read, but not continued."""


class DatabaseUnusable(EncoreError):
    """The database cannot be opened, read or written."""


class NotADatabase(DatabaseUnusable):
    """The given URL cannot be a database's."""

    exit_code = 2


class DatabaseFull(DatabaseUnusable):
    """The disk is full; with more room, the same command continues."""


class RowDamaged(DatabaseUnusable, ValueError):
    """A row's content is invalid."""


class DatabaseAway(DatabaseUnusable):
    """A server cannot be reached or has stopped responding; the transaction may be retried."""


class DatabaseTooNew(EncoreError):
    """The database was written by a newer Encore than this one."""


class RemoteUnusable(EncoreError):
    """A remote file cannot be reached, read or written."""
