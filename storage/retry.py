"""Retries while a database server does not respond.

Only whole, idempotent transactions are repeated: one that was committed, but whose response was
lost, is carried out a second time.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn, ParamSpec, TypeVar

from storage.errors import DatabaseAway, DatabaseUnusable

GIVE_UP_AFTER = 600.0
"""Seconds without a response after which a search ends; a restart takes a tenth of that."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0

P = ParamSpec("P")
T = TypeVar("T")


class Patience:
    """Carries out transactions with retries. Calls may be nested.

    `say` is called when waiting begins and ends, `interrupted` ends it with `KeyboardInterrupt`.
    `confirm` is called before anything is repeated; what it raises ends the waiting, too.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        interrupted: threading.Event,
        confirm: Callable[[], None],
        *,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> None:
        self._say = say
        self._interrupted = interrupted
        self._confirm = confirm
        self._give_up_after = give_up_after

    def __call__(self, transaction: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Return a transaction's result; `DatabaseUnusable` once waiting has taken too long."""
        asked = partial(transaction, *given, **named)
        return self.either(asked, asked)

    def either(self, first: Callable[[], T], again: Callable[[], T]) -> T:
        """Call `first`; if its response is lost, call `again`, which finds out what was done."""
        try:
            return first()
        except DatabaseAway as error:
            return self._repeat(again, error)

    def _repeat(self, again: Callable[[], T], lost: DatabaseAway) -> T:
        deadline = time.monotonic() + self._give_up_after
        delay, told = 0.0, False
        while True:
            # The first retry is immediate: the server may just have been restarted.
            if self._interrupted.wait(delay):
                raise KeyboardInterrupt from lost
            try:
                self._confirm()
                answer = again()
            except DatabaseAway as error:
                if time.monotonic() > deadline:
                    self._give_up(error)
                if not told:
                    self._say(f"the database does not answer ({error}); waiting")
                    told = True
                delay = min(_LONGEST_DELAY, 2 * delay or _FIRST_DELAY)
                continue
            if told:
                self._say("the database answers again; the search goes on")
            return answer

    def _give_up(self, error: DatabaseAway) -> NoReturn:
        raise DatabaseUnusable(
            f"the database has not answered for {self._give_up_after / 60:.0f} minutes ({error}); "
            "run the same command again once it does: the search goes on where it was"
        ) from None
