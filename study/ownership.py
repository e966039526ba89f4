"""One coordinator a study: claim it, say every few seconds that we live, give it up."""

import logging
import os
import socket
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

from storage.errors import DatabaseAway, DatabaseUnusable, StudyInUse
from storage.records import Owner
from storage.store import Store
from study.drift import typed

HEARTBEAT_SECONDS = 5.0
STALE_AFTER = timedelta(seconds=60)

log = logging.getLogger(__name__)


def searcher(store: Store, study_id: int) -> Owner | None:
    """Give who searches a study now; whoever gave no heartbeat for long does not count."""
    owner = store.owner(study_id)
    return owner if owner and datetime.now(UTC) - owner.heartbeat_at < STALE_AFTER else None


class DatabaseReplaced(DatabaseUnusable):
    """Another file, or none, lies where the database was opened."""


class Ownership:
    """A context in which this process is a study's only searcher. Raises `StudyInUse` on entry.

    `lost` is set to the reason if somebody else took the study over meanwhile, or if the database's
    file was deleted or replaced: what is open leads to one that nobody finds again.
    """

    def __init__(self, store: Store, study_id: int) -> None:
        self.lost: StudyInUse | DatabaseReplaced | None = None
        self._store = store
        self._study_id = study_id
        self._file = store.file_identity()
        self._token = uuid.uuid4().hex
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._store.claim(
            self._study_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            token=self._token,
            command=typed(sys.argv)[:1000],
            now=datetime.now(UTC),
            stale_after=STALE_AFTER,
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if isinstance(self.lost, DatabaseReplaced):
            return  # the row is gone; what lies there now is another's
        try:
            self._store.release(self._study_id, self._token)
        except DatabaseAway:  # nobody is kept out for long by one who gives no heartbeat
            log.debug("the study was not given up", exc_info=True)

    def confirm(self) -> None:
        """Say now that we live, and learn at once if we are the owner no more.

        Raises `StudyInUse`, or `DatabaseReplaced`.
        """
        self._check_file()
        self._store.heartbeat(self._study_id, self._token, datetime.now(UTC))

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self.confirm()
            except (StudyInUse, DatabaseReplaced) as error:
                self.lost = error
                return
            except Exception:  # a database busy for once must not end the heartbeat
                log.debug("a heartbeat was missed", exc_info=True)

    def _check_file(self) -> None:
        try:
            if self._store.file_identity() == self._file:
                return
        except FileNotFoundError:
            pass
        raise DatabaseReplaced(
            "the database's file was deleted or replaced while the search ran, so nothing more can "
            "be kept; put it back and run the same command again: the search goes on where it was"
        )
