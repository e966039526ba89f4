"""When a search gives up: many failures in a row probably have one cause."""

from study.errors import TooManyFailures


class Failures:
    """Counts failures in a row. A stage run shared by several trials counts once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def forget(self) -> None:
        """Note that a trial has not failed."""
        self._in_a_row = 0

    def count(self, failure: str) -> None:
        """Note a failure; `TooManyFailures` if the limit is reached."""
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise TooManyFailures(
                f"{self._in_a_row} trials in a row have failed, the last with {failure}; "
                "fix the cause and run the same command again, or raise --max-failures"
            )
