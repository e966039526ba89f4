"""Studies of any size in a real database, with real photos, that no search took the time for."""

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import insert

from storage.database import open_database
from storage.predictions import encode
from storage.records import State, Trial
from storage.tables import (
    CheckpointRow,
    EpochRow,
    ManifestRow,
    PredictionsRow,
    StageRunRow,
    StudyRow,
    TrialRow,
    TrialStageRow,
)
from study.report.contents import Contents
from study.searching.optuna_storage import optuna_storage
from tests.contents import make_contents
from trainers.data.manifest import Manifest
from trainers.metrics import Evaluation

NAME = "of-rows"


@dataclass(frozen=True)
class Written:
    """Where a study lies: its database, and the folder of its photos."""

    url: str
    photos: Path


def write_study(folder: Path, trials: int, *, classes: int = 3, each: int = 10) -> Written:
    """Write the study of `make_contents`, hostile names and all, and a photo for each of its paths.

    The weights of its best trials are files that are whole, but no network's.
    """
    contents = make_contents(trials, classes, each=each)
    root = folder / "photos"
    assert contents.manifest is not None
    _write_photos(contents.manifest, root)
    url = f"sqlite:///{folder / 'runs' / 'encore.db'}"
    (folder / "runs" / NAME).mkdir(parents=True)
    files = _write_weights(contents, folder / "runs" / NAME)
    engine = open_database(url)
    with engine.begin() as connection:
        for table, rows in _rows(contents, root, files).items():
            if rows:
                connection.execute(insert(table), rows)
    engine.dispose()
    return Written(url, root)


def _rows(contents: Contents, root: Path, files: list[dict[str, Any]]) -> dict[Any, list[Any]]:
    assert contents.manifest is not None
    document = zlib.compress(contents.manifest.to_json().encode("utf-8", "surrogateescape"))
    study = asdict(replace(contents.study, name=NAME))
    columns = {column.name for column in EpochRow.__table__.columns}
    epochs = [
        {name: _finite(value) for name, value in asdict(each).items() if name in columns}
        for same in contents.epochs.values()
        for each in same
    ]
    return {
        ManifestRow: [
            {"digest": contents.manifest.digest, "root": str(root), "document": document}
        ],
        StudyRow: [study],
        StageRunRow: [asdict(run) for run in contents.runs.values()],
        TrialRow: [_trial(trial) for trial in contents.trials],
        TrialStageRow: [
            {"trial_id": number + 1, "position": position, "stage_run_id": run}
            for number, runs in contents.links.items()
            for position, run in enumerate(runs)
        ],
        EpochRow: epochs,
        PredictionsRow: _predictions(contents, epochs),
        CheckpointRow: files,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    row = asdict(trial)
    return row | {"schedule": row.pop("schedule_json"), "schedule_digest": trial.schedule_digest}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _predictions(contents: Contents, epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every epoch predictions, a few of them, in turns."""
    n_classes = len(contents.classes)
    blobs = []
    for seed in range(5):
        logits = np.random.default_rng(seed).normal(size=(len(contents.labels), n_classes))
        logits[np.arange(len(contents.labels)), contents.labels] += 1.5
        table = np.exp(2 * logits)
        table /= table.sum(axis=1, keepdims=True)
        blobs.append(encode(Evaluation(contents.labels, table.astype(np.float32))))
    return [
        {
            "stage_run_id": epoch["stage_run_id"],
            "epoch": epoch["epoch"],
            "form": blobs[place % 5][0],
            "blob": blobs[place % 5][1],
        }
        for place, epoch in enumerate(epochs)
    ]


def _write_weights(contents: Contents, vault: Path) -> list[dict[str, Any]]:
    files = []
    for trial in [each for each in contents.ranked if each.state is State.COMPLETE][:5]:
        content = f"the weights of {trial.number}".encode()
        path = vault / f"acc_t{trial.number:04d}.safetensors"
        path.write_bytes(content)
        files.append(
            {
                "stage_run_id": trial.best_stage_run,
                "kind": "best",
                "path": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "epoch": trial.best_epoch,
                "score": trial.score,
            }
        )
    return files


def _write_photos(manifest: Manifest, root: Path) -> None:
    for number, photo in enumerate(manifest.photos):
        path = root / photo.path
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(path, "PNG")


def open_at_once(url: str, searches: int = 6) -> None:
    """Open a database as so many searches do that begin together; none may fail."""

    def begin(_: int) -> int:
        open_database(url).dispose()
        storage = optuna_storage(url)
        try:
            return len(storage.get_all_studies())
        finally:
            storage.engine.dispose()

    with ThreadPoolExecutor(searches) as pool:
        assert list(pool.map(begin, range(searches))) == [0] * searches
