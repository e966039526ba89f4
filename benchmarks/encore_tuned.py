"""The contestant Encore: its command line, from an empty folder, as its users type it.

One study, whose state is answered with at each of `--moments`, with the ensemble of its best as
well, and at the end with each `--refit` of the choice; or, with `--first`, the first schedule of a
preset alone. `--search` are further flags, under which it competes as `--name`.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recipe_task import Answer, Asked, PhotoList, Probabilities, Stopwatch, command_line

from study import Selection, best
from study.deployment.refit import refit
from study.errors import NothingToSelect
from study.selection.ensemble import ensemble
from trainers.classifier import load
from trainers.ensemble import load_ensemble

CLI = Path(__file__).parents[1] / "cli.py"
TRIALS = 1000
"""More than there is time for."""


class Search:
    """A study in a folder of its own, and what came of it."""

    def __init__(self, asked: Asked, folder: Path, flags: Sequence[str]) -> None:
        self._asked, self._folder, self._flags = asked, folder, flags
        self._storage = f"sqlite:///{folder / 'encore.db'}"
        self._clock = Stopwatch(asked.began)
        self._photos = PhotoList.read(asked.data)

    def go_on(self, minutes: float) -> None:
        """Search until so many minutes have passed since this process was started."""
        left = 60 * minutes - self._clock.seconds
        if left > 0:
            self._run("--trials", str(TRIALS), "--timeout", f"{left:.0f}s")

    def only(self, preset: str) -> None:
        """Train the first schedule of a preset."""
        self._run("--trials", "1", "--preset", preset, "--no-portfolio")

    def answer(self, name: str) -> Answer:
        """Answer with what `best` chooses; the test photos are looked at off the clock.

        Raises `NothingToSelect` if no trial has finished yet.
        """
        chosen = best(storage=self._storage)
        with self._clock.stopped():
            found = load(chosen.file).predict(self._photos.test.paths)
        return self._answer(name, chosen.errors, found, chosen)

    def refitted_answer(self, name: str, seeds: int) -> Answer:
        """Answer with the chosen schedule, trained on the validation photos as well."""
        chosen = best(storage=self._storage)
        made = refit(chosen, storage=self._storage, folder=self._folder, seeds=seeds, device="cpu")
        with self._clock.stopped():
            found = load(made.file).predict(self._photos.test.paths)
        return self._answer(name, chosen.errors, found, chosen)

    def ensemble_answer(self, name: str) -> Answer:
        """Answer with what `best --ensemble` chooses, off the clock.

        Raises `NothingToSelect` where there are too few files.
        """
        with self._clock.stopped():
            several = ensemble(storage=self._storage)
            members = load_ensemble((member.file, member.count) for member in several.members)
            found = members.predict(self._photos.test.paths)
        return self._answer(name, several.errors, found, None)

    def _answer(
        self, name: str, errors: int, of_test: Probabilities, chosen: Selection | None
    ) -> Answer:
        return Answer(
            contestant=name,
            valid_errors=errors,
            test_wrong=self._photos.test.wrong(of_test.argmax(1)),
            test_photos=len(self._photos.test),
            train_photos=len(self._photos.train),
            seconds=self._clock.seconds,
            cpu_seconds=self._clock.cpu,
            settings={} if chosen is None else _settings(chosen),
        )

    def _run(self, *options: str) -> None:
        threads = self._asked.threads
        command: Sequence[str] = [
            *(sys.executable, str(CLI), "search", *options),
            *("--data", str(self._asked.data.resolve()), "--storage", self._storage),
            *("--seed", str(self._asked.seed), "--allow-leaks", *self._flags),
            *("--devices", f"cpu:{threads}" if threads > 1 else "cpu"),
        ]
        done = subprocess.run(  # noqa: S603
            command, cwd=self._folder, stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise SystemExit(f"search ended with code {done.returncode}")


def _settings(chosen: Selection) -> dict[str, Any]:
    found: dict[str, Any] = {"trial": chosen.trial, "seed": chosen.seed, "valid": chosen.n_valid}
    if (expected := chosen.bias_corrected) is not None:
        found |= {"estimate": expected.estimate, "interval": [expected.low, expected.high]}
    return found


def main() -> None:
    """Compete, and print an answer for each moment."""
    parser = command_line(__doc__)
    parser.add_argument("--moments", type=float, nargs="+", default=[5, 15], help="minutes")
    parser.add_argument("--first", metavar="PRESET", help="train its first schedule alone")
    parser.add_argument("--name", default="encore")
    parser.add_argument("--no-ensemble", action="store_true")
    parser.add_argument("--refit", metavar="SEEDS", type=int, nargs="*", default=[])
    parser.add_argument("--search", metavar="FLAGS", default="", help="for the command line")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        search = Search(Asked.of(given), Path(folder), shlex.split(given.search))
        if given.first:
            search.only(given.first)
            search.answer(f"{given.name}-first").print()
            return
        for minutes in given.moments:
            search.go_on(minutes)
            with suppress(NothingToSelect):
                search.answer(f"{given.name}-{minutes:g}").print()
                if not given.no_ensemble:
                    search.ensemble_answer(f"{given.name}-{minutes:g}, ensemble").print()
        for seeds in given.refit:
            search.refitted_answer(f"{given.name}-{minutes:g}, refit {seeds}", seeds).print()


if __name__ == "__main__":
    main()
