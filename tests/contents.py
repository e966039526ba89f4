"""The contents of a study of any size, made of rows that no search has written."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from storage.predictions import StoredPredictions
from storage.records import EpochRecord, StageRun, State, StudyRecord, Trial
from study.history.tree import ShownTree, StageNode
from study.report.contents import Contents
from study.searching.statuses import Statuses
from study.selection.leaks import Judged
from tests.lab import schedule, stage, trial_of
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import Metric

HOSTILE = (
    "<script>alert(1)</script>",
    '<a href=javascript:alert(1)>"it\'s" & %{x}</a>',
    "</script><img src=x onerror=alert(1)>$x$ \u202egnp.exe\x07",
)
"""The names of the first classes; the first is the study's too."""

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = 10.0
"""What every stage run took."""


def make_contents(
    trials: int = 50,
    classes: int = 3,
    *,
    each: int = 20,
    metric: Metric = Metric.ACCURACY,
    compact: bool = False,
    epochs: int = 4,
) -> Contents:
    """Make a study of two stages, in which pairs of trials share the first.

    Of each ten trials one failed (of its second stage all losses are NaN) and one was pruned after
    the first stage; the last one runs. Stage run 2n + 1 is the first of trials n and n + 1, for
    even n, and 2n + 2 the second of trial n. The better the greater the second stage's rate is.
    `each` are a class's photos in each split; `compact` predictions lack all but two probabilities.
    """
    manifest = _manifest(classes, each)
    made = tuple(_trial(number, trials, epochs, metric) for number in range(trials))
    links = {trial.number: _runs_of(trial) for trial in made}
    scores = {trial.number: _score(trial.number, metric) for trial in made}
    first = {run: number for number in reversed(links) for run in links[number]}
    winner = next((trial for trial in made if trial.state is State.COMPLETE), None)
    labels = manifest.labels(Split.VALID)
    return Contents(
        study=StudyRecord(
            id=1,
            name=HOSTILE[0],
            metric=metric,
            manifest_digest=manifest.digest,
            config={},
            space={},
            created_at=BEGAN,
            used_at=BEGAN,
        ),
        manifest=manifest,
        selection=None,
        unselected="no trial has finished yet",
        trials=made,
        statuses=Statuses(searched=True, in_training=frozenset(links)),
        runs={run: _run(run, number, epochs) for run, number in first.items()},
        epochs={
            run: tuple(_epochs(run, epochs, scores[number], made[number].state))
            for run, number in first.items()
        },
        links=links,
        tree=_tree(made, metric, len(first)),
        winner=winner,
        predictions=_predictions(labels, classes, compact=compact) if winner else None,
        check=None,
    )


def _manifest(classes: int, each: int) -> Manifest:
    names = [HOSTILE[i] if i < len(HOSTILE) else f"class {i:04}" for i in range(classes)]
    photos = [
        Photo(f"{name}/{i:03}.png", label, split, f"{i:064x}", 1)
        for label, name in enumerate(names)
        for split in (Split.VALID, Split.TRAIN)
        for i in range(each)
    ]
    return Manifest(Path("/nowhere"), tuple(names), tuple(photos))


def _predictions(labels: Any, classes: int, *, compact: bool) -> StoredPredictions:
    """Draw predictions that are mostly right, and too sure."""
    logits = np.random.default_rng(0).normal(size=(len(labels), classes))
    rows = np.arange(len(labels))
    logits[rows, labels] += 2.5
    table = np.exp(2 * logits)
    table = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    predicted = table.argmax(axis=1)
    kept = None if compact else table
    return StoredPredictions(predicted, table[rows, predicted], table[rows, labels], kept)


def _rate(number: int) -> float:
    return 1e-4 * (1 + number % 25)


def _score(number: int, metric: Metric) -> float:
    score = 0.5 + 150 * _rate(number) + 0.0001 * (number % 7)
    return score if metric.higher_is_better else 2 - score


def _trial(number: int, trials: int, epochs: int, metric: Metric) -> Trial:
    state = {3: State.FAILED, 5: State.PRUNED}.get(number % 10, State.COMPLETE)
    state = State.RUNNING if number == trials - 1 else state
    first = stage(64, 1e-3 + number // 2 * 1e-6, epochs)
    ended = state in (State.COMPLETE, State.PRUNED)
    run = 2 * number + 2 if state is State.COMPLETE else 2 * (number - number % 2) + 1
    return trial_of(
        schedule(first, stage(96, _rate(number), epochs)),
        number,
        state=state,
        score=_score(number, metric) if ended else None,
        loss=0.5 if ended else None,
        best_stage_run=run if ended else None,
        best_epoch=epochs if ended else None,
        failure=f"{HOSTILE[0]} broke" if state is State.FAILED else None,
        started_at=BEGAN + timedelta(minutes=number),
        finished_at=BEGAN + timedelta(minutes=number + 5) if ended else None,
    )


def _runs_of(trial: Trial) -> tuple[int, ...]:
    first = 2 * (trial.number - trial.number % 2) + 1
    return (first,) if trial.state is State.PRUNED else (first, 2 * trial.number + 2)


def _run(run: int, number: int, epochs: int) -> StageRun:
    position = 1 - run % 2
    return StageRun(
        id=run,
        study_id=1,
        key=f"{run:064x}",
        position=position,
        seed=0,
        image_size=(64, 96)[position],
        epochs=epochs,
        state=State.COMPLETE,
        trial_number=number,
        seconds=SECONDS,
        started_at=BEGAN,
        finished_at=BEGAN,
    )


def _epochs(run: int, epochs: int, score: float, state: State) -> Iterator[EpochRecord]:
    position = 1 - run % 2
    loss = math.nan if position and state is State.FAILED else 1 - score / 3
    for epoch in range(1, epochs + 1):
        yield EpochRecord(
            stage_run_id=run,
            stage=position,
            epoch=epoch,
            cycle=1 + (epoch > epochs // 2),
            lrs=(1e-4, 2e-4, 1e-3 / epoch),
            train_loss=loss,
            valid_loss=loss,
            accuracy=score * epoch / epochs,
            balanced_accuracy=score,
            f1=score,
            seconds=SECONDS / epochs,
            images_per_second=100.0,
        )


def _tree(trials: tuple[Trial, ...], metric: Metric, runs: int) -> ShownTree:
    roots = []
    for pair in range(0, len(trials), 2):
        sharing = trials[pair : pair + 2]
        leaves = [t for t in sharing if t.state is not State.PRUNED]
        root = _node(2 * pair + 1, sharing)
        stopped = tuple(t.number for t in sharing if t.state is State.PRUNED)
        children = tuple(_node(2 * t.number + 2, (t,)) for t in leaves)
        roots.append(replace(root, children=children, stopped=stopped))
    return ShownTree(
        study=HOSTILE[0],
        metric=metric,
        trials=len(trials),
        stage_runs=runs,
        pixels=100,
        saved_pixels=40,
        seconds=SECONDS * runs,
        roots=tuple(roots),
        judged=Judged(30, None),
    )


def _node(run: int, sharing: tuple[Trial, ...]) -> StageNode:
    position = 1 - run % 2
    settings = sharing[0].schedule.stages[position]
    failed = position and sharing[0].state is State.FAILED
    return StageNode(
        key=f"{run:064x}",
        stage=position + 1,
        image_size=settings.image_size,
        epochs=settings.epochs,
        lrs=settings.lrs,
        crop="random",
        seed=0,
        state=State.FAILED if failed else State.COMPLETE,
        score=sharing[0].score,
        seconds=SECONDS,
        pixels=10,
        trials=tuple(trial.number for trial in sharing),
        stopped=(),
        children=(),
    )
