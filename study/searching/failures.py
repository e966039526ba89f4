"""When a search gives up: the same mistake is likely to spoil every trial."""

from study.errors import TooManyFailures


class Failures:
    """Counts failures in a row. What fails for several trials at once counts once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._in_a_row = 0

    def forget(self) -> None:
        """Note that a trial has not failed."""
        self._in_a_row = 0

    def count(self, failure: str) -> None:
        """Note a failure; `TooManyFailures` if there are as many as may be."""
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise TooManyFailures(
                f"{self._in_a_row} trials in a row have failed, the last with {failure}; "
                "mend the cause and run the same command again, or raise --max-failures"
            )
