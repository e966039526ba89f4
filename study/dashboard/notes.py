"""The note on a trial, as markdown. Names in it are not trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import State, Trial
from study.formatting import count_text, score_phrase, time_text
from study.invocation import hint
from study.sanitizing import masked
from study.selection.result import Selection
from study.stage_text import schedule_text
from trainers.metrics import Metric, confusion_matrix
from trainers.schedule import Schedule

CLASSES = 10
"""With more classes, the note lists the worst confusions instead of a table."""

WORST = 12

TIED = (
    "Other trials have the same score: Optuna's badge *best trial* marks the first of these, while "
    "the winner here is chosen by the forecast and the log loss as well."
)

_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;", "'": "&#39;"}
_MARKS = frozenset("\\`*_{}[]()#+-.!|~:/@=$^")
_LONGEST = 80


@dataclass(frozen=True)
class Predicted:
    """A trial's best epoch on the validation photos: labels and predictions, (n,) each."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    answers: NDArray[np.int64]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Count photos, (C, C): row true, column predicted."""
        return confusion_matrix(self.labels, self.answers, len(self.classes))


def note_on(
    trial: Trial, metric: Metric, study: str, predicted: Predicted | None, weights: str | None
) -> str:
    """Describe a trial, its result, and the next commands.

    `weights` is the address of its file; None where none is kept.
    """
    photos = len(predicted.labels) if predicted else 0
    score = score_phrase(metric, trial.score, photos)
    head = f"**{metric} {score}**" if trial.score is not None else "**-**"
    about = f"{trial.state}, {trial.role}, seed {trial.seed}, {time_text(trial.seconds)}"
    parts = [f"{head} ({about})", plain(schedule_text(trial.schedule))]
    if trial.failure:
        what = "It failed" if trial.state is State.FAILED else "It was stopped"
        parts.append(f"{what}: {plain(trial.failure)}")
    if predicted is not None:
        wrong = int((predicted.labels != predicted.answers).sum())
        parts.append(f"{wrong} errors on {len(predicted.labels)} validation photos")
        parts.append(_confusion(predicted))
    parts.append(f"[The weights]({weights})" if weights else "Its weights are not kept.")
    parts.append(f"`{hint('show', trial.number, '--study', study)}`")
    return "\n\n".join(part for part in parts if part)


def winner_note(chosen: Selection) -> str:
    """Describe the winning trial, its estimated score on new photos, and the next commands."""
    metric = chosen.metric
    seen = f"{chosen.phrase(chosen.score)} with {chosen.errors_text}"
    found = chosen.bias_corrected
    if found is None:
        head = f"{metric} {seen}; too few photos to estimate the score on new ones"
    else:
        head = (
            f"estimated {metric} on new photos "
            f"{chosen.phrase(found.estimate)} ({chosen.interval}); the observed "
            f"{seen} was chosen from {count_text(found.candidates, 'epoch')} and is "
            "therefore optimistic"
        )
    parts = [f"**Winner: trial {chosen.trial}, seed {chosen.seed}**", plain(head)]
    if any(other.score == chosen.score for other in chosen.runners_up):
        parts.append(TIED)
    if chosen.leak_text:
        parts.append(f"**{plain(chosen.leak_text)}**")
    if chosen.schedule_spread is not None:
        mean, spread = map(chosen.text, (chosen.schedule_mean, chosen.schedule_spread))
        seeds = len(chosen.seed_scores)
        parts.append(plain(f"mean over {seeds} seeds of its schedule {mean}, sd {spread}"))
    parts.append(plain(schedule_text(Schedule.from_dict(chosen.schedule))))
    # Not its file's name: a browser does not wrap it, and it is wider than a phone.
    parts.append(f"`{hint('best', '--study', chosen.study)}`")
    return "\n\n".join(parts)


def plain(text: str, longest: int = 1000) -> str:
    """Return text escaped for markdown and HTML, shortened where it is longer than that."""
    short = text if len(text) <= longest else text[:longest] + "..."
    return "".join(_harmless(c) for c in short)


def _harmless(c: str) -> str:
    return _ENTITIES.get(c) or (f"\\{c}" if c in _MARKS else masked(c))


def _confusion(predicted: Predicted) -> str:
    matrix, names = predicted.confusion, [plain(name, _LONGEST) for name in predicted.classes]
    if len(names) <= CLASSES:
        head = f"| true, predicted: | {' | '.join(names)} |\n|---{'|---:' * len(names)}|"
        rows = (
            f"| {name} | {' | '.join(str(n) for n in row)} |"
            for name, row in zip(names, matrix.tolist(), strict=True)
        )
        return "\n".join([head, *rows])
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:WORST]
    pairs = [divmod(int(place), len(names)) for place in order]
    return "\n".join(
        f"- {matrix[true, taken]} {names[true]} misclassified as {names[taken]}"
        for true, taken in pairs
        if matrix[true, taken]
    )
