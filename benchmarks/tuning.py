"""The loop that a user writes around a training program: Optuna's TPE until the time is over."""

import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from recipe_task import Answer, Asked, PhotoList, Probabilities, Stopwatch, log_loss

Settings = dict[str, Any]


class OutOfTime(Exception):
    """A trial was still training when the time was over."""


class Deadline:
    """When training has to end; nothing has to before the first trial has."""

    def __init__(self, clock: Stopwatch, minutes: float) -> None:
        self._clock = clock
        self._seconds = 60 * minutes
        self.binding = False

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._clock.seconds >= self._seconds

    def check(self) -> None:
        """Raise `OutOfTime` if a trial has to end now."""
        if self.binding and self.passed:
            raise OutOfTime("the time is over")


@dataclass(frozen=True)
class Trained:
    """A trained network: what it says of the validation photos, and how to ask about the test's."""

    valid: Probabilities
    of_test: Callable[[], Probabilities]


def tune(
    name: str,
    asked: Asked,
    usual: Settings,
    suggest: Callable[[optuna.Trial], Settings],
    train: Callable[[PhotoList, Settings, int, Deadline], Trained],
) -> Answer:
    """Search settings until the time is over; answer with the best by validation.

    The `usual` settings are tried first. A trial that the end finds in training does not count.
    The sampler sees the errors, and the log loss where they are equal.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore")
    clock, photos = Stopwatch(asked.began), PhotoList.read(asked.data)
    deadline, found = Deadline(clock, asked.minutes), _Found(name, photos, clock)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=asked.seed))
    study.enqueue_trial(usual)
    with suppress(OutOfTime):
        while not (deadline.binding and deadline.passed):
            trial = study.ask()
            settings = suggest(trial)
            trained = train(photos, settings, asked.seed + 1000 * trial.number, deadline)
            deadline.binding = True
            study.tell(trial, found.take(trained, settings))
    return found.answer()


class _Found:
    """The best so far, and how it came there."""

    def __init__(self, name: str, photos: PhotoList, clock: Stopwatch) -> None:
        self._name, self._photos, self._clock = name, photos, clock
        self._trail: list[dict[str, Any]] = []
        self._best = float("inf")
        self._wrong: list[int] = []
        self._errors = 0
        self._settings: Settings = {}

    def take(self, trained: Trained, settings: Settings) -> float:
        """Return how bad a trial is. The test photos of a better one are judged off the clock."""
        labels = self._photos.valid.labels
        errors = len(self._photos.valid.wrong(trained.valid.argmax(1)))
        value = errors + min(log_loss(trained.valid, labels) / 100, 0.99)
        seconds, cpu = self._clock.seconds, self._clock.cpu
        if value < self._best:
            self._best, self._errors, self._settings = value, errors, settings
            with self._clock.stopped():
                self._wrong = self._photos.test.wrong(trained.of_test().argmax(1))
        self._trail.append(
            {
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "valid_errors": errors,
                "best_valid_errors": self._errors,
                "best_test_errors": len(self._wrong),
                "settings": settings,
            }
        )
        return value

    def answer(self) -> Answer:
        """Return the best, with all that the search took."""
        return Answer(
            contestant=self._name,
            valid_errors=self._errors,
            test_wrong=self._wrong,
            test_photos=len(self._photos.test),
            train_photos=len(self._photos.train),
            seconds=self._clock.seconds,
            cpu_seconds=self._clock.cpu,
            settings=self._settings,
            trail=self._trail,
        )
