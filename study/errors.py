"""The errors of deciding and choosing; `trainers.errors` draws the whole tree."""

from trainers.errors import EncoreError


class ConfigError(EncoreError, ValueError):
    """An invalid setting; the message is one sentence for the user."""

    exit_code = 2


class NotInStudy(EncoreError, LookupError):
    """The named trial or file does not belong to the study."""

    exit_code = 2


class TooManyFailures(EncoreError):
    """As many trials in a row failed as the budget allows."""

    exit_code = 3


class NothingToSelect(EncoreError):
    """No trial has left weights to choose from."""

    exit_code = 5


class UnrelatedWeights(EncoreError, LookupError):
    """Trials without common first stages: the mean of their weights would be useless."""
