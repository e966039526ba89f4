"""The request and the result of `best`, as plain frozen data."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Any

from study.criterion import Criterion
from study.formatting import count_text, photos_text, score_phrase, score_text
from study.sanitizing import printable, visible
from study.selection.goals import Goal
from study.selection.leaks import Leaks, leak_warning
from study.selection.schedule_ranking import ScheduleLine
from study.selection.several_labels import LabelScores
from study.selection.thresholds import Operation
from study.statistics.intervals import FEWEST_OF_CLASS, Limits
from study.statistics.selection_bias import BiasCorrected, By
from trainers.metrics import ClassNumbers


@dataclass(frozen=True)
class Asked:
    """How `best` chooses; no criterion means the study's own metric.

    By default weights are chosen by the forecast, which exists only for the study's metric; with
    another criterion by its score. By the MEAN or LCB of schedules, the weights are the best file
    of the best schedule. `costs` are prices ("TRUE>PREDICTED=PRICE"), `recalls` minimum recalls
    ("CLASS>=SHARE"), which override the study's own.
    """

    by: By | None = None
    criterion: Criterion | None = None
    costs: Sequence[str] = ()
    recalls: Sequence[str] = ()
    reject_cost: float | None = None


@dataclass(frozen=True)
class Mistake:
    """A validation photo that the chosen weights misclassify."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class RunnerUp:
    """Another trial's weights, with its schedule's mean over seeds."""

    trial: int
    seed: int
    score: float
    schedule_mean: float
    file: str


@dataclass(frozen=True)
class ProbeFound:
    """The study's best probe, an untuned baseline for the search.

    `score` is by the criterion that the weights were chosen by.
    """

    trial: int
    image_size: int
    score: float
    errors: int


@dataclass(frozen=True, repr=False)
class Selection:
    """The result of `best`: the weights, the schedule, and their estimates.

    `confusion` counts validation photos: row true, column predicted. `bias_corrected` is the
    estimate for new photos; None if there are too few photos. `schedules` are all of them, ranked.
    `schedule_mean` and `schedule_spread` (sample standard deviation; None for one seed) are over
    the complete trials of the winner's schedule, whose scores `seed_scores` gives. `probe` is the
    best of those that the search began with, None if it had none. `operation` is the decision rule
    for the `goal` that was set, if any. `damaged` names better files that were skipped, since they
    are missing or changed. `leaks` is the effect of validation photos that are also in train; None
    if there are none. `n_groups` are those of the validation photos, which intervals count; None if
    each photo is alone. With `folds` (0 for none), each photo was predicted by the network trained
    without its fold, and the file holds the networks of all folds as one. `recall_intervals` are 95
    % intervals of each class's recall, of 0 to 1 where it has no photo. `several` is None unless
    photos have several labels: then `errors` are of single labels, and `confusion` has a row for
    each label: photos rightly without it, wrongly named, missed and found. Of grades, `off` counts
    the photos that are named 0, 1, 2, ... grades off; None of other classes.
    """

    study: str
    trial: int
    seed: int
    file: str
    sha256: str
    metric: Criterion
    by: By
    score: float
    bias_corrected: BiasCorrected | None
    loss: float
    errors: int
    n_valid: int
    classes: tuple[str, ...]
    per_class: tuple[ClassNumbers, ...]
    recall_intervals: tuple[Limits, ...]
    confusion: list[list[int]]
    mistakes: tuple[Mistake, ...]
    schedule: dict[str, Any]
    schedule_digest: str
    stage: int
    epoch: int
    schedule_mean: float
    schedule_spread: float | None
    seed_scores: dict[int, float]
    trials: int
    runners_up: tuple[RunnerUp, ...]
    schedules: tuple[ScheduleLine, ...]
    probe: ProbeFound | None
    goal: Goal | None
    operation: Operation | None
    damaged: tuple[str, ...]
    leaks: Leaks | None = None
    several: LabelScores | None = None
    off: tuple[int, ...] | None = None
    n_groups: int | None = None
    folds: int = 0

    def __repr__(self) -> str:
        """Return it in a line, for the Python prompt."""
        expected = f", estimated on new photos {self._expected}" if self.bias_corrected else ""
        name = PurePath(self.file).name
        return printable(f"<Selection: trial {self.trial}, {self._observed}{expected}, {name}>")

    def _repr_html_(self) -> str:
        """Return it as HTML for a notebook; names are untrusted, and escaped."""
        facts = {
            f"{self.metric}": self._observed.removeprefix(f"{self.metric} "),
            "estimated on new photos": self._expected,
            "warning": self.leak_text,
            "study": self.study,
            "trial": f"{self.trial}, seed {self.seed}",
            "weights": self.file,
        }
        rows = "".join(
            f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left; '
            f'overflow-wrap: anywhere">{escape(visible(fact))}</td></tr>'
            for name, fact in facts.items()
            if fact
        )
        return f"<table>{rows}</table>"

    @property
    def rule(self) -> dict[str, Any]:
        """What the weights' card is to say of how probabilities are read, by its fields."""
        if self.operation:
            return {"decision": self.operation.decision.to_dict()}
        thresholds = self.several.thresholds if self.several else None
        return {} if thresholds is None else {"thresholds": thresholds}

    @property
    def _observed(self) -> str:
        return f"{self.metric} {self.phrase(self.score)} ({self.errors_text})"

    @property
    def errors_text(self) -> str:
        """The number of errors and of photos."""
        photos = photos_text(self.n_valid, self.n_groups)
        if self.several is not None:
            of = f"{self.n_valid * len(self.classes):,} labels of {photos}"
            return f"{count_text(self.errors, 'error')} on {of}"
        return f"{count_text(self.errors, 'error')} on {photos}"

    @property
    def _expected(self) -> str:
        estimate = f"{self.phrase(self.bias_corrected.estimate)}, " if self.bias_corrected else ""
        return f"{estimate}{self.interval}"

    @property
    def interval(self) -> str:
        """The interval of the estimate for new photos, or why there is none."""
        found = self.bias_corrected
        if found is None:
            return f"too few for an interval: {photos_text(self.n_valid, self.n_groups)}"
        if found.few is not None:
            if self.several is not None:
                name = self.classes[found.few // 2]
                return f"too few photos with or without {name} for an interval"
            grouped = self.n_groups is not None
            what = "groups of photos" if grouped else "photos"
            count = "" if grouped else f"{self.per_class[found.few].photos}, "
            return (
                f"too few {what} of class {self.classes[found.few]} for an interval: "
                f"{count}at least {FEWEST_OF_CLASS} are needed"
            )
        return self._interval(found)

    @property
    def leak_text(self) -> str | None:
        """The effect of validation photos that are also in train; None without any."""
        if self.leaks is None:
            return None
        left = self.leaks
        warning = leak_warning(left.photos, self.n_valid, at_least=left.at_least)
        if left.score is None:
            return f"{warning}; too few are left to score without them"
        text = (
            f"{warning}; without them {self.metric} {self.phrase(left.score)} "
            f"({count_text(left.errors, 'error')} on {left.n_valid:,})"
        )
        found = left.bias_corrected
        if found is None:
            return text
        limits = "" if found.few is not None else f" ({self._interval(found)})"
        return f"{text}, on new photos {self.phrase(found.estimate)}{limits}"

    def text(self, score: float | None) -> str:
        """Return a score by the metric as in tables."""
        return score_text(self.metric, score, self.n_valid)

    def phrase(self, score: float | None) -> str:
        """Return a score by the metric as in sentences."""
        return score_phrase(self.metric, score, self.n_valid)

    def _interval(self, found: BiasCorrected) -> str:
        return f"95 % CI {self.text(found.low)}-{self.text(found.high)}"
