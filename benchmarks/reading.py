"""Part `reading`: how long the reading commands take on a database of many trials."""

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from contestants import markdown, say
from sqlalchemy import insert
from surface import AnyOf

from storage.database import open_database, writing
from storage.paths import runs_folder
from storage.predictions import encode
from storage.records import ManifestRecord, Role, State, StudyRecord, stage_run_key
from storage.store import Store
from storage.tables import (
    CheckpointRow,
    EpochRow,
    PredictionsRow,
    StageRunRow,
    TrialRow,
    TrialStageRow,
)
from storage.vault import Vault
from study.config.space import Space, describe_space
from study.history.trials import list_trials
from study.searching.suggest import suggest_schedule
from study.selection.best import best
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import Evaluation, Metric

ROOT = Path(__file__).resolve().parent.parent
PHOTOS, KEPT, STAGES = 100, 10, 2
ENDED = datetime(2026, 1, 1, tzinfo=UTC)
HEADER = (
    "command",
    "of 1 trial, s",
    "of all trials, s",
    "beyond the start, s (lowest - highest)",
    "within one process, ms",
)


def _space(epochs: int) -> Space:
    """Return a space so wide that hardly any two trials are alike, each of so many epochs."""
    rates = tuple(1e-4 * 1.05**step for step in range(80))
    lengths = (epochs // STAGES,)
    return Space(
        n_stages=(STAGES,), image_size=(64,), batch_size=(32,), cycle_len=lengths, lrs=rates
    )


def _manifest() -> Manifest:
    splits = [(Split.VALID, number) for number in range(PHOTOS)] + [(Split.TRAIN, PHOTOS)]
    photos = tuple(
        Photo(f"{'ab'[number % 2]}/{number:04}.png", number % 2, split, f"{number:064x}", 1)
        for split, number in splits
    )
    return Manifest(Path("/nowhere"), ("a", "b"), tuple(sorted(photos, key=lambda p: p.path)))


class Builder:
    """Collects rows by table, so that they can be written at once."""

    def __init__(self, study: StudyRecord, manifest: Manifest, vault: Vault, epochs: int) -> None:
        self.rows: dict[Any, list[dict[str, Any]]] = {
            table: []
            for table in (
                StageRunRow, TrialRow, TrialStageRow, EpochRow, PredictionsRow, CheckpointRow,
            )
        }  # fmt: skip
        self._study, self._manifest, self._vault = study, manifest, vault
        self._labels = manifest.labels(Split.VALID)
        self._space, self._chooser = _space(epochs), AnyOf(0)
        self._draw = np.random.default_rng(0)
        self._runs = 0

    def add_trial(self, number: int, score: float, place: int) -> None:
        """Add a trial that has ended with `score`, as the `place`-th best."""
        schedule = suggest_schedule(self._chooser, self._space, "random")
        digest = self._manifest.digest
        for position, prefix in enumerate(schedule.prefixes()):
            self._runs += 1
            key = stage_run_key(digest, prefix, number)
            self._add_run(number, key, position, prefix.stages[-1].epochs, score)
        file = self._keep(number, self._runs, score) if place < KEPT else None
        epoch = schedule.stages[-1].epochs
        if file:
            self.rows[CheckpointRow].append(file | {"epoch": epoch})
        self.rows[TrialRow].append(
            {
                "id": number + 1,
                "study_id": self._study.id,
                "number": number,
                "schedule_digest": schedule.digest,
                "schedule": schedule.to_json(),
                "seed": number,
                "role": Role.EXPLORE.value,
                "state": State.COMPLETE.value,
                "score": score,
                "loss": 1 - score,
                "best_stage_run": self._runs,
                "best_epoch": epoch,
                "seconds": 10.0,
                "failure": None,
                **self._times(),
            }
        )

    def _add_run(self, number: int, key: str, position: int, epochs: int, score: float) -> None:
        stage = {"key": key, "position": position, "seed": number, "image_size": 64}
        state = {"state": State.COMPLETE.value, "trial_number": number, "seconds": 5.0}
        ids = {"id": self._runs, "study_id": self._study.id, "epochs": epochs}
        self.rows[StageRunRow].append({**ids, **stage, **state, **self._times()})
        link = {"trial_id": number + 1, "position": position, "stage_run_id": self._runs}
        self.rows[TrialStageRow].append(link)
        for epoch in range(1, epochs + 1):
            self._add_epoch(epoch, score - 0.001 * (STAGES - position) * (epochs - epoch))

    def _add_epoch(self, epoch: int, score: float) -> None:
        right = self._draw.random(PHOTOS) < score
        true = np.where(right, 0.9, 0.2).astype(np.float32)
        table = np.repeat((1 - true)[:, None], 2, 1)
        table[np.arange(PHOTOS), self._labels] = true
        evaluation = Evaluation(self._labels, table)
        form, blob = encode(evaluation)
        here = {"stage_run_id": self._runs, "epoch": epoch}
        numbers = {
            "accuracy": Metric.ACCURACY.of(evaluation),
            "balanced_accuracy": Metric.BALANCED_ACCURACY.of(evaluation),
            "f1": Metric.F1.of(evaluation),
        }
        rest = {"cycle": 1, "lrs": [1e-4, 2e-4, 1e-3], "train_loss": 0.5, "valid_loss": 1 - score}
        times = {"seconds": 1.0, "images_per_second": 1.0, "data_wait": 0.0, "micro_batch": None}
        self.rows[EpochRow].append(here | numbers | rest | times)
        self.rows[PredictionsRow].append(here | {"form": form, "blob": blob})

    def _keep(self, number: int, run: int, score: float) -> dict[str, Any]:
        source = self._vault.workspace(f"{number:064x}") / "best.safetensors"
        source.write_bytes(b"weights" * 100)
        stored = self._vault.seal(source, f"best_{number}.safetensors")
        self._vault.discard(f"{number:064x}")
        return {**vars(stored), "stage_run_id": run, "kind": "best", "score": score}

    def _times(self) -> dict[str, datetime]:
        return {"started_at": ENDED - timedelta(seconds=10), "finished_at": ENDED}


def build(url: str, trials: int, epochs: int) -> None:
    """Fill a database with trials of `epochs` epochs each. Optuna's tables are left out."""
    manifest, store = _manifest(), Store(open_database(url))
    document = ManifestRecord(digest=manifest.digest, root="/nowhere", document=manifest.to_json())
    store.save_manifest(document)
    space = describe_space(_space(epochs))
    study = store.create_study("bench", Metric.ACCURACY, manifest.digest, {}, space)
    builder = Builder(study, manifest, Vault(runs_folder(url) / study.name), epochs)
    draw = random.Random(0)  # noqa: S311 - nothing secret
    scores = [0.5 + 0.45 * draw.random() for _ in range(trials)]
    places = {n: place for place, n in enumerate(sorted(range(trials), key=lambda n: -scores[n]))}
    for number, score in enumerate(scores):
        builder.add_trial(number, score, places[number])
    with writing(store._engine) as connection:
        for table, rows in builder.rows.items():
            connection.execute(insert(table), rows)
    store.close()


def _seconds(work: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def _program(*flags: str) -> Callable[[], object]:
    command = [sys.executable, str(ROOT / "cli.py"), *flags]
    return lambda: subprocess.run(command, capture_output=True, check=True, cwd=ROOT)  # noqa: S603


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10, help="of each trial")
    parser.add_argument("--times", type=int, default=9)


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the table and what it was made of.

    What a command costs beyond its start is its time less that of a study of one trial, in turns.
    """
    measured, rows = {}, []
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        many, one = (f"sqlite:///{Path(folder) / name / 'encore.db'}" for name in ("many", "one"))
        build(one, 1, given.epochs)
        began = time.perf_counter()
        build(many, given.trials, given.epochs)
        size = (Path(folder) / "many" / "encore.db").stat().st_size
        say(f"built in {time.perf_counter() - began:.1f} s, {size / 1e6:.0f} MB")
        starts = _seconds(_program("--help"), given.times)
        rows.append(["--help", f"{median(starts):.2f}", "", "", ""])
        measured["--help"] = starts
        works: dict[str, Callable[[], object]] = {
            "ls": lambda: list_trials(storage=many),
            "best": lambda: best(storage=many),
        }
        for name, within in works.items():
            pairs = [
                seconds
                for _ in range(given.times)
                for url in (one, many)
                for seconds in _seconds(_program(name, "--storage", url), 1)
            ]
            starts, whole = pairs[::2], pairs[1::2]
            beyond = [long - short for long, short in zip(whole, starts, strict=True)]
            inner = _seconds(within, given.times)
            measured[name] = {"one": starts, "many": whole, "within": inner}
            spread = f"{median(beyond):.2f} ({min(beyond):.2f} - {max(beyond):.2f})"
            cells = [f"{median(starts):.2f}", f"{median(whole):.2f}", spread]
            rows.append([name, *cells, f"{1000 * median(inner):.0f}"])
    return markdown(HEADER, rows), measured
