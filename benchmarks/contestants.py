"""Who competes, and how one of them is run: as a program of its own, alone on the machine."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import TypeVar

from task import Outcome

from trainers.allowance import usable_cpus

Competitor = TypeVar("Competitor")


class RunFailed(Exception):
    """A contestant ended without an outcome."""


@dataclass(frozen=True)
class Contestant:
    """A script beside this file, the package it needs, and what it is told beside the task."""

    name: str
    script: str
    package: str
    flags: tuple[str, ...] = ()

    @property
    def lacks(self) -> str:
        """What keeps it from competing; nothing if it can."""
        if not self._path.exists():
            return f"benchmarks/{self.script}"
        return "" if find_spec(self.package) else f"the package {self.package}"

    @property
    def _path(self) -> Path:
        return Path(__file__).with_name(self.script)

    def run(self, **task: object) -> Outcome:
        """Run it on a task, given as the flags of `command_line`; raises `RunFailed`."""
        options = [text for key, value in task.items() for text in _option(key, value)]
        command = [sys.executable, str(self._path), *options, *self.flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RunFailed(f"{self.name} failed with code {done.returncode}: {last}")
        return Outcome.read(done.stdout)


CONTESTANTS = (
    Contestant("encore", "encore_loop.py", "trainers"),
    Contestant("fastai", "fastai_loop.py", "fastai"),
    Contestant("fastai, channels_last", "fastai_loop.py", "fastai", ("--channels-last",)),
    Contestant("fastai, no workers", "fastai_loop.py", "fastai", ("--workers", "0")),
    Contestant("timm", "timm_loop.py", "timm"),
    Contestant("timm, channels_last", "timm_loop.py", "timm", ("--channels-last",)),
)
NAMES = [contestant.name for contestant in CONTESTANTS]


def present(names: Sequence[str]) -> list[Contestant]:
    """Return those that can run, in the order of `names`, and name the others."""
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    found = []
    for contestant in map(by_name.__getitem__, names):
        if contestant.lacks:
            say(f"{contestant.name} is left out: {contestant.lacks} is missing.")
        else:
            found.append(contestant)
    if not found:
        raise SystemExit("no contestant is left to measure")
    return found


def rotated(contestants: Sequence[Competitor], turn: int) -> list[Competitor]:
    """Put another one first each turn: who runs when must not decide."""
    first = turn % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def say(sentence: str) -> None:
    """Tell the reader how it goes, apart from the results."""
    print(sentence, file=sys.stderr, flush=True)


def surroundings() -> dict[str, str]:
    """Return the versions and the cores, without which no number means anything."""
    packages = ("torch", "torchvision", "timm", "fastai", "pillow", "numpy")
    versions = {package: version(package) for package in packages if find_spec(_module(package))}
    return {"python": python_version(), **versions, "cores": str(usable_cpus())}


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _module(package: str) -> str:
    return {"pillow": "PIL"}.get(package, package)


def _option(key: str, value: object) -> list[str]:
    """Spell a flag: True stands alone, False and None are not said."""
    if value is None or value is False:
        return []
    return [f"--{key}"] if value is True else [f"--{key}", str(value)]
