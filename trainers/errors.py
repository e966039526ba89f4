"""The errors on which a caller acts, all of one kind; the message is one sentence for the user.

    EncoreError                exit code 1
    ├── TrainingDiverged       the loss is no longer a finite number
    ├── DeviceLost             a GPU has failed, and its process cannot use it any more
    ├── WeightsUnavailable     the backbone's weights cannot be had
    ├── NotOurWeights          a file is no weights file of Encore's, or a broken one
    ├── UnreadablePhoto        a file is no photo that can be used
    ├── ExportRefused          a network cannot be written so that it answers as before
    ├── DatasetError           4: the data cannot be used as they are
    │   └── NoSuchData         2: there is nothing at the path that was given
    ├── storage.errors
    │   ├── StudyNotFound      5: no study of that name, or no database yet
    │   │   └── NoSuchStudy    2: there are studies, but none of that name
    │   ├── StudyInUse         another process is searching the study
    │   ├── StudyTooOld        an earlier Encore began the study: it can be read, not gone on with
    │   ├── DatabaseUnusable   the file or the server cannot be used
    │   │   ├── NotADatabase   2: what was given as a database's URL cannot be one
    │   │   ├── DatabaseFull   there is no room to write
    │   │   ├── RowDamaged     what is written there cannot be, such as a path out of the vault
    │   │   └── DatabaseAway   the server cannot be reached, or stopped answering
    │   ├── DatabaseTooNew     written by a newer Encore
    │   └── RemoteUnusable     the URL of a vault or of data cannot be used
    └── study.errors
        ├── ConfigError        2: a setting that cannot be
        ├── NotInStudy         2: what was named, a trial or a file, is none of the study's
        ├── TooManyFailures    3: as many trials in a row failed as the budget allows
        ├── NothingToSelect    5: no trial has left weights to choose from
        └── UnrelatedWeights   trials without a common beginning: their mean is no network

Other misuse raises ValueError or LookupError.
"""

from typing import ClassVar


class EncoreError(Exception):
    """What a user can act on; a command ends with its exit code."""

    exit_code: ClassVar[int] = 1


class TrainingDiverged(EncoreError):
    """The loss is no longer a finite number: this trial cannot be saved, the search goes on."""


class DeviceLost(EncoreError):
    """A GPU has failed: whatever this process asks of it from now on fails, too."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the GPU has failed ({reason}), and this process cannot use it any more; run the same "
            "command again: it goes on"
        )


class WeightsUnavailable(EncoreError):
    """The backbone's weights cannot be had; the message names the ways out."""


class NotOurWeights(EncoreError):
    """A file that is no Encore weights file, or a broken one; the message says which."""


class UnreadablePhoto(EncoreError, ValueError):
    """A file is no photo that can be used; the text is a short reason, such as "truncated"."""


class ExportRefused(EncoreError, ValueError):
    """A network cannot be written so that it answers as before; the message says why."""


class DatasetError(EncoreError):
    """The data cannot be used as they are; the text is one sentence with the way out."""

    exit_code = 4


class NoSuchData(DatasetError):
    """There is nothing at the path that was given."""

    exit_code = 2
