"""Transactions of a `Store`, each a function of its connection."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row, Update

from storage.database import alone, change_one, reading, writing

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Connection, P], T]
"""The work of a transaction, given the connection. It may be carried out more than once."""


class Repeat(Protocol):
    """Carries out a transaction, with retries if needed: `storage.retry.Patience`, or `once`."""

    def __call__(self, transaction: Callable[[], T], /) -> T:
        """Return the transaction's result."""
        ...


def once(transaction: Callable[[], T], /) -> T:
    """Carry out a transaction once; errors are raised to the caller."""
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
        """Return the result of `work`; its writes are atomic."""
        return self._carry_out(writing, work, *given, **named)

    def write_alone(self, work: Work[P, T], *given: P.args, **named: P.kwargs) -> T:
        """Write, serialized with all others of this kind: for rows that searches share."""
        return self._carry_out(alone, work, *given, **named)

    def change(self, change: Update, what: str, row_id: int) -> None:
        """Update one row; LookupError, which names `what`, if it does not exist."""
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
