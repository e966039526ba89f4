"""What a `Store` asks of its database: whole transactions, each a function of its connection."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row, Update

from storage.database import alone, change_one, reading, writing

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Connection, P], T]
"""Part of a transaction: it gets the connection first. It may be carried out more than once."""


class Repeat(Protocol):
    """Carries out a transaction, again if need be: `storage.retry.Patience`, or `once`."""

    def __call__(self, transaction: Callable[[], T], /) -> T:
        """Return the transaction's result."""
        ...


def once(transaction: Callable[[], T], /) -> T:
    """Carry out a transaction once: what the database raises is the caller's."""
    return transaction()


class Transactions:
    """Carries out transactions on the database that `engine` leads to, by `repeat` each."""

    def __init__(self, engine: Engine, repeat: Repeat = once) -> None:
        self.engine = engine
        self.repeat = repeat

    def read(self, work: Work[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Return what `work` reads."""
        return self._carry_out(reading, work, *given, **named)

    def write(self, work: Work[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Return what `work` returns; what it writes is written as a whole, or not at all."""
        return self._carry_out(writing, work, *given, **named)

    def write_alone(self, work: Work[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Do the same after all others of this kind: for what searches share."""
        return self._carry_out(alone, work, *given, **named)

    def change(self, change: Update, what: str, row_id: int) -> None:
        """Update one row; LookupError, in terms of `what`, if it is not there."""
        self.write(change_one, change, what, row_id)

    def first(self, query: Executable, to_record: Callable[[Row[Any]], T]) -> T | None:
        """Return the first row that a query finds as a record."""
        found = self.read(lambda connection: connection.execute(query).first())
        return None if found is None else to_record(found)

    def all(self, query: Executable, to_record: Callable[[Row[Any]], T]) -> list[T]:
        """Return all rows that a query finds as records."""
        found: Iterable[Row[Any]] = self.read(
            lambda connection: list(connection.execute(query)),
        )
        return [to_record(row) for row in found]

    def _carry_out(
        self,
        enter: Callable[[Engine], AbstractContextManager[Connection]],
        work: Work[P, T],
        *given: P.args,
        **named: P.kwargs,
    ) -> T:
        def transaction() -> T:
            with enter(self.engine) as connection:
                return work(connection, *given, **named)

        return self.repeat(transaction)
