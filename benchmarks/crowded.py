"""What training costs beside other programs, with OpenMP's threads spinning as they do by default.

PYTHONPATH=. python benchmarks/crowded.py [--rounds 5] [--busy 2] [--into FILE]

`search --trials 1` on the digits, alone and beside programs that keep a core busy each; in turns,
with the spinning that GNU OpenMP begins with and with Encore's.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from contestants import markdown, say

ROOT = Path(__file__).parents[1]
BY_DEFAULT = "300000"
"""How often GNU OpenMP looks again before a thread sleeps, by default."""


@dataclass(frozen=True)
class Cost:
    """What a search took, in seconds: by the clock, and of the CPU in all its processes."""

    wall: float
    cpu: float


@contextmanager
def beside(busy: int) -> Iterator[None]:
    """Have so many programs do nothing but work meanwhile."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def search(spins: str | None) -> Cost:
    """Search once, in a folder of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"GOMP_SPINCOUNT": spins} if spins else {})
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        words = [sys.executable, str(ROOT / "cli.py"), "search", "--trials", "1", "--seed", "0"]
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)  # noqa: S603
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - began, cpu)


def main() -> None:
    """Measure in turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--spins", default=None, help="instead of what Encore sets")
    given = parser.parse_args()
    settings = {"by default": BY_DEFAULT, "Encore's": given.spins}
    found: dict[tuple[int, str], list[Cost]] = {}
    for _, busy, name in product(range(given.rounds), (0, given.busy), settings):
        with beside(busy):
            cost = search(settings[name])
        found.setdefault((busy, name), []).append(cost)
        say(f"{busy} busy, {name}: {cost.wall:.1f} s, {cost.cpu:.1f} s of CPU")
    middle = {
        key: Cost(median(c.wall for c in costs), median(c.cpu for c in costs))
        for key, costs in found.items()
    }
    rows = [
        [
            f"{busy} busy programs" if busy else "alone",
            name,
            f"{cost.wall:.1f}",
            f"{cost.cpu:.1f}",
            f"{cost.wall / middle[0, name].wall:.2f}",
            f"{middle[busy, 'by default'].wall / cost.wall:.2f}",
        ]
        for (busy, name), cost in middle.items()
    ]
    header = ("beside", "threads spin", "wall, s", "CPU, s", "times alone", "speed to default")
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
