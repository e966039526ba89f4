"""Searches whose processes are disturbed again and again end as they should."""

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.records import Role
from tests.chaos import (
    OTHER,
    Search,
    Searches,
    check_ended,
    check_study,
    kill_one,
    said,
    workers_of,
)
from tests.chaos_search import make_lab
from tests.engines import all_dead, until

TRIALS = 60
KILLS = ["worker"] * 15 + ["coordinator"] * 5

DISTURBANCES = {
    "a worker dies": 20,
    "a worker dies as it starts": 8,
    "the search dies": 8,
    "the search is stopped": 6,
    "another machine takes over": 7,
    "a clock is two minutes off": 5,
    "the search beside it dies": 6,
}
ENDLESS = 100_000


@pytest.fixture
def searches(tmp_path: Path, template: Path) -> Iterator[Searches]:
    """Return what begins searches over two databases in one folder."""
    for name in ("encore.db", OTHER):
        shutil.copy(template, tmp_path / name)
    found = Searches(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
def test_twenty_kills_cost_nothing_but_time(searches: Searches) -> None:
    """Workers and the coordinator die at random, and the same command is given until it ends.

    All trials end, none twice; each stage run is complete, once, with all its epochs; no row, file
    or process is left over.
    """
    rng = random.Random(5)  # noqa: S311 - no secret
    done: Counter[str] = Counter()
    seen: set[int] = set()
    search = searches.start(TRIALS)
    for victim in rng.sample(KILLS, len(KILLS)):
        # Not before there is something to kill: to start takes longer than most trials.
        until(lambda: workers_of(search) or search.poll() is not None, 60)  # noqa: B023
        time.sleep(rng.uniform(0, 0.5))
        seen |= set(alive := workers_of(search))
        if search.poll() is not None:
            break
        if victim == "coordinator":
            search.kill()
            check_ended(search, killed=True)
            search = searches.start(TRIALS)
        elif alive:
            kill_one(alive, rng)
        done[victim] += 1
    check_ended(search)
    assert done == Counter(KILLS), "the search was over too early for this test to say anything"
    until(lambda: all_dead(seen), 5)
    check_study(searches.folder)
    lab = make_lab(searches.folder, TRIALS)
    with lab.reading() as (store, study, _):
        roles = Counter(trial.role for trial in store.trials(study.id))
    assert roles.total() - roles[Role.REPEAT] == TRIALS
    assert roles[Role.REPEAT] <= 4


class Chaos:
    """A search, one beside it over another database in the same folder, and what befalls them."""

    def __init__(self, searches: Searches, rng: random.Random) -> None:
        self.searches, self.rng = searches, rng
        self.host, self.elsewhere = "a", "b"
        self.seen: set[int] = set()
        self.search = self.start()
        self.beside = searches.start(ENDLESS, "--database", OTHER, "--seconds", "0.3")

    def start(self, *options: str) -> Search:
        """Begin the search on its machine."""
        options = options or ("--host", self.host, "--stale", "1")
        return self.searches.start(ENDLESS, *options, "--seconds", "0.3")

    def befall(self, what: str) -> None:
        """Disturb the search while it trains, be it at once or in a moment."""
        until(lambda: self.searches.owner_is(self.search) and workers_of(self.search), 60)
        time.sleep(self.rng.uniform(0, 0.5))
        self.seen |= set(workers_of(self.search)) | set(workers_of(self.beside))
        match what:
            case "a worker dies":
                until(lambda: workers_of(self.search), 60)
                kill_one(workers_of(self.search), self.rng)
            case "a worker dies as it starts":
                self.kill_one_that_starts()
            case "the search dies":
                self.search.kill()
                check_ended(self.search, killed=True)
                self.search = self.start()
            case "the search is stopped":
                self.search.send_signal(signal.SIGSTOP)
                assert "is stopped; continue it with `fg`" in said(self.start())
                self.search.send_signal(signal.SIGCONT)
            case "another machine takes over":
                self.be_taken_over()
            case "a clock is two minutes off":
                ahead = self.rng.choice(["120", "-120"])
                rival = self.start("--host", "c", "--clock", ahead, "--stale", "60")
                assert f"process {self.search.pid} on {self.host}" in said(rival)
            case "the search beside it dies":
                self.beside.kill()
                check_ended(self.beside, killed=True)
                self.beside = self.searches.start(ENDLESS, "--database", OTHER, "--seconds", "0.3")

    def kill_one_that_starts(self) -> None:
        """Kill a worker, and the one in its place before it can say a word."""
        before = set(workers_of(self.search))
        kill_one(sorted(before), self.rng)
        until(lambda: set(workers_of(self.search)) - before or self.search.poll() is not None, 60)
        assert self.search.poll() is None, self.search.communicate()
        kill_one(sorted(set(workers_of(self.search)) - before), self.rng)

    def be_taken_over(self) -> None:
        """Sleep as a machine that is paused; wake up when another one searches."""
        self.search.send_signal(signal.SIGSTOP)
        self.host, self.elsewhere = self.elsewhere, self.host
        asleep, self.search = self.search, self.start()
        try:
            until(lambda: self.searches.owner_is(self.search), 20)
        except AssertionError:  # it sleeps amid a transaction, so that no other process can write
            asleep.send_signal(signal.SIGCONT)
            until(lambda: self.search.poll() is not None or self.searches.owner_is(self.search), 60)
            if self.search.poll() is not None:
                self.host, self.elsewhere, self.search = self.elsewhere, self.host, asleep
                return
        asleep.send_signal(signal.SIGCONT)
        assert f"process {self.search.pid} on {self.host}" in said(asleep)

    def end(self) -> None:
        """Have both searches finish what they have begun, and no more."""
        for search, name in ((self.search, "encore.db"), (self.beside, OTHER)):
            search.kill()
            check_ended(search, killed=True)
            begun = self.searches.count("trials", name)
            here = ("--host", self.host, "--stale", "1") if name != OTHER else ()
            check_ended(self.searches.start(begun, *here, "--database", name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "disturbances",
    [
        pytest.param(dict.fromkeys(DISTURBANCES, 1), id="one of each kind"),
        pytest.param(DISTURBANCES, id="sixty"),
    ],
)
def test_disturbances_cost_nothing_but_time(
    searches: Searches, disturbances: dict[str, int]
) -> None:
    """Deaths, sleep, takeovers, wrong clocks and a second database in the same folder, at random.

    Nothing is lost, done twice or overwritten; no file of others is deleted; each tensor is
    to the last bit what it is undisturbed.
    """
    rng = random.Random(7)  # noqa: S311 - no secret
    plan = [what for what, times in disturbances.items() for _ in range(times)]
    chaos = Chaos(searches, rng)
    until(lambda: searches.count("checkpoints") and searches.count("checkpoints", OTHER), 60)
    mine = [
        folder / "my_favourite.safetensors"
        for folder in searches.folder.iterdir()
        if folder.is_dir()
    ]
    assert len(mine) == 2, "each of the two studies must have a folder of its own"
    for file in mine:
        file.write_bytes(b"not to be touched")
    for what in rng.sample(plan, len(plan)):
        chaos.befall(what)
    chaos.end()
    until(lambda: all_dead(chaos.seen), 5)
    for name in ("encore.db", OTHER):
        check_study(searches.folder, name, over=False)
    assert {file.read_bytes() for file in mine} == {b"not to be touched"}
