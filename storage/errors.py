"""The errors of this floor on which a caller acts; the message is one sentence for the user.

    Exception
    ├── StudyNotFound      no study of that name, or no database yet
    ├── StudyInUse         another process is searching the study
    ├── StudyTooOld        an earlier Encore began the study: it can be read, not gone on with
    ├── DatabaseUnusable   the URL, the file or the server cannot be used
    │   ├── DatabaseFull   there is no room to write
    │   ├── RowDamaged     what is written there cannot be, such as a path out of the vault
    │   └── DatabaseAway   the server cannot be reached, or stopped answering: to wait may help
    ├── DatabaseTooNew     written by a newer Encore
    └── RemoteUnusable     the URL of a vault or of data cannot be used

Misuse raises ValueError or LookupError, as everywhere.
"""


class StudyNotFound(Exception):
    """There is no study of that name, or no database to look in."""


class StudyInUse(Exception):
    """Another process owns the study, or took it over."""


class StudyTooOld(Exception):
    """An earlier Encore began the study: it can be read, not gone on with."""


class DatabaseUnusable(Exception):
    """The database cannot be opened, read or written."""


class DatabaseFull(DatabaseUnusable):
    """There is no room to write; with more, the same command goes on."""


class RowDamaged(DatabaseUnusable, ValueError):
    """What a row says cannot be."""


class DatabaseAway(DatabaseUnusable):
    """A server cannot be reached or has stopped answering; what was asked may be asked again."""


class DatabaseTooNew(Exception):
    """The database was written by a newer Encore than this one."""


class RemoteUnusable(Exception):
    """What lies behind a URL cannot be reached, read or written."""
