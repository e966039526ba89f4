"""The errors on which a caller acts, all of one kind; the message is one sentence for the user.

    EncoreError                exit code 1
    ├── TrainingDiverged       the loss is no longer a finite number
    ├── DeviceLost             a GPU has failed, and its process cannot use it any more
    ├── WeightsUnavailable     the backbone's weights are unavailable
    ├── NotOurWeights          a file is not one of Encore's weights files, or is broken
    ├── UnreadablePhoto        a file is not a usable photo
    ├── ExportRefused          an exported network would give other outputs
    ├── DatasetError           4: the data cannot be used as they are
    │   └── NoSuchData         2: there is nothing at the path that was given
    ├── storage.errors
    │   ├── StudyNotFound      5: no study of that name, or no database yet
    │   │   └── NoSuchStudy    2: there are studies, but none of that name
    │   ├── StudyInUse         another process is searching the study
    │   ├── StudyTooOld        an earlier version began the study: it can be read, but not continued
    │   ├── DatabaseUnusable   the file or the server cannot be used
    │   │   ├── NotADatabase   2: the given URL cannot be a database's
    │   │   ├── DatabaseFull   there is no room to write
    │   │   ├── RowDamaged     a row's content is invalid, such as a path out of the vault
    │   │   └── DatabaseAway   the server cannot be reached, or stopped responding
    │   ├── DatabaseTooNew     written by a newer Encore
    │   └── RemoteUnusable     the URL of a vault or of data cannot be used
    └── study.errors
        ├── ConfigError        2: an invalid setting
        ├── NotInStudy         2: the named trial or file does not belong to the study
        ├── TooManyFailures    3: as many trials in a row failed as the budget allows
        ├── NothingToSelect    5: no trial has left weights to choose from
        └── UnrelatedWeights   trials without common first stages: their mean is useless

Other misuse raises ValueError or LookupError.
"""

from typing import ClassVar


class EncoreError(Exception):
    """An error on which a user can act; a command ends with its exit code."""

    exit_code: ClassVar[int] = 1


class TrainingDiverged(EncoreError):
    """The loss is no longer a finite number: this trial cannot be saved, the search goes on."""


class DeviceLost(EncoreError):
    """A GPU has failed: every further call of this process to it fails."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the GPU has failed ({reason}), and this process cannot use it any more; run the same "
            "command again: it goes on"
        )


class WeightsUnavailable(EncoreError):
    """The backbone's weights are unavailable; the message names alternatives."""


class NotOurWeights(EncoreError):
    """Not a weights file of Encore's, or a broken one; the message says which."""


class UnreadablePhoto(EncoreError, ValueError):
    """A file is not a usable photo; the text is a short reason, such as "truncated"."""


class ExportRefused(EncoreError, ValueError):
    """An exported network would give other outputs; the message says why."""


class DatasetError(EncoreError):
    """The data cannot be used as they are; the text is one sentence with the remedy."""

    exit_code = 4


class NoSuchData(DatasetError):
    """There is nothing at the path that was given."""

    exit_code = 2
