"""One coordinator per study: claim the study, send heartbeats, release it."""

import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from storage.errors import DatabaseAway, DatabaseUnusable, StudyInUse
from storage.liveness import Life
from storage.ownership import Claim, life_of
from storage.records import Owner
from storage.store import Store
from study.invocation import typed

HEARTBEAT_SECONDS = 5.0
STALE_AFTER = timedelta(seconds=60)
WATCH_SECONDS = 3 * HEARTBEAT_SECONDS
"""Seconds to watch an owner without heartbeats before replacing it: its clock may be slow."""

log = logging.getLogger(__name__)


def searcher(store: Store, study_id: int) -> Owner | None:
    """Return the owner of a study; None if it has died or has been silent for long."""
    owner = store.owner(study_id)
    if owner is None or _is_silent(store, owner):
        return None
    return None if life_of(owner, socket.gethostname()) is Life.GONE else owner


def _is_silent(store: Store, owner: Owner) -> bool:
    """Whether a process that can be checked only by its heartbeat has an old one."""
    unknown = life_of(owner, socket.gethostname()) is Life.UNKNOWN
    return unknown and store.now() - owner.heartbeat_at > STALE_AFTER


class DatabaseReplaced(DatabaseUnusable):
    """The database's file was deleted or replaced while it was open."""


class Ownership:
    """A context in which this process is the only owner of a study. Raises `StudyInUse` on entry.

    `lost` is set to the reason if another process took the study over meanwhile, or if the
    database's file was deleted or replaced: the open file is then lost. If the context is left by
    an error after that, the reason is raised in its place. `say` is called when it has to wait.
    """

    def __init__(
        self, store: Store, study_id: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.claim = Claim(study_id, uuid.uuid4().hex)
        self.lost: StudyInUse | DatabaseReplaced | None = None
        self._store = store
        self._file = store.file_identity()
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._store.claim(
            self.claim,
            host=socket.gethostname(),
            pid=os.getpid(),
            command=typed(sys.argv)[:1000],
            stale_after=STALE_AFTER,
            silent=self._watch(),
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
            return  # the row is gone; a new file belongs to another process
        try:
            if isinstance(error, Exception):
                self.confirm()  # errors after a loss are consequences of it
            self._store.release(self.claim)
        except DatabaseAway:  # without a heartbeat, the ownership expires by itself
            log.debug("the study was not released", exc_info=True)

    def confirm(self) -> None:
        """Send a heartbeat now, and check that we are still the owner.

        Raises `StudyInUse`, or `DatabaseReplaced`.
        """
        self._check_file()
        self._store.heartbeat(self.claim)

    def _watch(self) -> datetime | None:
        """Return the heartbeat of an owner that has been silent for long, also while we watched."""
        owner = self._store.owner(self.claim.study_id)
        if owner is None or not _is_silent(self._store, owner):
            return None
        self._say(
            f"process {owner.pid} on {owner.host}, which searched this study, has given no sign of "
            f"life for a while; waiting {WATCH_SECONDS:.0f} s for one before taking over"
        )
        self._over.wait(WATCH_SECONDS)
        return owner.heartbeat_at

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self.confirm()
            except (StudyInUse, DatabaseReplaced) as error:
                self.lost = error
                return
            except Exception:  # one busy database must not end the heartbeat
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
