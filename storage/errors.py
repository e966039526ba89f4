"""The errors of databases and of what lies behind URLs; `trainers.errors` draws the whole tree."""

from trainers.errors import EncoreError


class StudyNotFound(EncoreError):
    """There is no study of that name, or no database to look in."""

    exit_code = 5


class NoSuchStudy(StudyNotFound):
    """There are studies, but none of that name."""

    exit_code = 2


class StudyInUse(EncoreError):
    """Another process owns the study, or took it over."""


class StudyTooOld(EncoreError):
    """An earlier Encore began the study: it can be read, not gone on with."""


class DatabaseUnusable(EncoreError):
    """The database cannot be opened, read or written."""


class NotADatabase(DatabaseUnusable):
    """What was given as a database's URL cannot be one."""

    exit_code = 2


class DatabaseFull(DatabaseUnusable):
    """There is no room to write; with more, the same command goes on."""


class RowDamaged(DatabaseUnusable, ValueError):
    """What a row says cannot be."""


class DatabaseAway(DatabaseUnusable):
    """A server cannot be reached or has stopped answering; what was asked may be asked again."""


class DatabaseTooNew(EncoreError):
    """The database was written by a newer Encore than this one."""


class RemoteUnusable(EncoreError):
    """What lies behind a URL cannot be reached, read or written."""
