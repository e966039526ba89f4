"""A study as pandas frames, for a notebook or a spreadsheet. The only maker of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.report.contents import Contents
from study.report.figures.confusion import class_table
from study.report.figures.parameters import flattened
from study.sanitizing import defused
from study.stage_text import schedule_text
from trainers.files import replacing

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 50
"""Up to this many classes each have a column of probabilities."""

_OF_PHOTO = ("path", "label", "split")
_OF_PAIR = ("likeness", "agreement", "cosine", "mirrored", "leaks", "conflicts")


def frames(contents: Contents) -> dict[str, "pd.DataFrame"]:
    """Return all tables of a study, by name.

    `trials` (with their parameters flattened, stages counted from 1), `stages` (stage runs),
    `epochs`, `schedules` (the best first), `classes` and `predictions` (of the winner's best epoch,
    a row a validation photo), and `duplicates` if the data gate has looked. A frame without rows
    still has its columns, except those of parameters.
    """
    return {
        "trials": _trials(contents),
        "stages": _stages(contents),
        "epochs": _epochs(contents),
        "schedules": _schedules(contents),
        "classes": _classes(contents),
        "predictions": _predictions(contents),
        **_duplicates(contents),
    }


def write_csvs(made: dict[str, "pd.DataFrame"], folder: Path) -> list[Path]:
    """Write each frame as CSV in UTF-8, whole or not at all; return the files.

    Text that a spreadsheet would run gets a leading apostrophe, in headers too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(frame, folder / f"{name}.csv") for name, frame in made.items()]


def _write(frame: "pd.DataFrame", path: Path) -> Path:
    safe = frame.map(_defused).rename(columns=_defused)
    with replacing(path) as temporary:
        # A file name may hold bytes that are not UTF-8, or half of a line's end: Python quotes
        # what is in the line's end that it is told.
        safe.to_csv(
            temporary,
            index=False,
            encoding="utf-8",
            errors="backslashreplace",
            lineterminator="\r\n",
        )
    return path


def _defused(cell: Any) -> Any:
    return defused(cell) if isinstance(cell, str) else cell


def _frame(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> "pd.DataFrame":
    import pandas as pd

    others = dict.fromkeys(name for row in rows for name in row if name not in columns)
    return pd.DataFrame(rows, columns=[*columns, *others])


def _trials(contents: Contents) -> "pd.DataFrame":
    columns: tuple[str, ...] = (
        "trial",
        "seed",
        "role",
        "state",
        "score",
        "loss",
        "seconds",
        "started_at",
    )
    columns += ("finished_at", "best_stage", "best_epoch", "schedule_digest", "schedule", "failure")
    best = {run.id: run.position + 1 for run in contents.runs.values()}
    rows = [
        {
            "trial": trial.number,
            "seed": trial.seed,
            "role": trial.role.value,
            "state": contents.statuses.of_trial(trial).value,
            "score": trial.score,
            "loss": trial.loss,
            "seconds": trial.seconds,
            "started_at": trial.started_at,
            "finished_at": trial.finished_at,
            "best_stage": best.get(trial.best_stage_run or -1),
            "best_epoch": trial.best_epoch,
            "schedule_digest": trial.schedule_digest,
            "schedule": schedule_text(trial.schedule),
            "failure": trial.failure,
            **flattened(trial.schedule),
        }
        for trial in contents.trials
    ]
    return _frame(rows, columns).astype({"best_stage": "Int64", "best_epoch": "Int64"})


def _stages(contents: Contents) -> "pd.DataFrame":
    columns: tuple[str, ...] = (
        "stage_run",
        "key",
        "stage",
        "seed",
        "image_size",
        "epochs",
        "state",
        "trained_by",
    )
    columns += ("seconds", "started_at", "finished_at", "parent", "trials")
    used: dict[int, list[int]] = {}
    parents: dict[int, int] = {}
    for number, runs in contents.links.items():
        for place, run in enumerate(runs):
            used.setdefault(run, []).append(number)
            if place:
                parents[run] = runs[place - 1]
    rows = [
        {
            "stage_run": run.id,
            "key": run.key,
            "stage": run.position + 1,
            "seed": run.seed,
            "image_size": run.image_size,
            "epochs": run.epochs,
            "state": contents.statuses.of_stage_run(run).value,
            "trained_by": run.trial_number,
            "seconds": run.seconds,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
            "parent": parents.get(run.id),
            "trials": " ".join(map(str, used.get(run.id, ()))),
        }
        for run in contents.runs.values()
    ]
    return _frame(rows, columns).astype({"parent": "Int64"})


def _epochs(contents: Contents) -> "pd.DataFrame":
    columns: tuple[str, ...] = (
        "stage_run",
        "stage",
        "epoch",
        "cycle",
        "train_loss",
        "valid_loss",
        "accuracy",
    )
    columns += ("balanced_accuracy", "f1", "lr", "lrs", "seconds", "images_per_second")
    rows = [
        {
            "stage_run": epoch.stage_run_id,
            "stage": epoch.stage + 1,
            "epoch": epoch.epoch,
            "cycle": epoch.cycle,
            "train_loss": epoch.train_loss,
            "valid_loss": epoch.valid_loss,
            "accuracy": epoch.accuracy,
            "balanced_accuracy": epoch.balanced_accuracy,
            "f1": epoch.f1,
            "own_score": epoch.own_score,
            "lr": epoch.lrs[-1] if epoch.lrs else None,
            "lrs": " ".join(f"{lr:g}" for lr in epoch.lrs),
            "seconds": epoch.seconds,
            "images_per_second": epoch.images_per_second,
            "data_wait": epoch.data_wait,
            "micro_batch": epoch.micro_batch,
            "calibrated_loss": epoch.calibrated_loss,
        }
        for epochs in contents.epochs.values()
        for epoch in epochs
    ]
    return _frame(rows, (*columns, "data_wait", "micro_batch", "calibrated_loss", "own_score"))


def _schedules(contents: Contents) -> "pd.DataFrame":
    columns = ("rank", "schedule_digest", "schedule", "trial", "seeds", "mean", "spread", "low")
    rows = [
        {
            "rank": place,
            "schedule_digest": line.digest,
            "schedule": line.schedule,
            "trial": line.trial,
            "seeds": len(line.scores),
            "mean": line.mean,
            "spread": line.spread,
            "low": line.low,
            "high": line.high,
            "bound": line.bound,
            "best": line.best,
            "seconds": line.seconds,
            "p_value": line.p_value,
            "tied": line.tied,
        }
        for place, line in enumerate(contents.schedules, start=1)
    ]
    return _frame(rows, (*columns, "high", "bound", "best", "seconds", "p_value", "tied"))


def _classes(contents: Contents) -> "pd.DataFrame":
    columns = ("class", "photos", "predicted", "recall", "precision", "f1", "taken_for", "times")
    rows = [{"class": row["name"]} | row for row in class_table(contents).data or ()]
    return _frame(rows, columns)[list(columns)]


def _predictions(contents: Contents) -> "pd.DataFrame":
    columns = ("path", "label", "predicted", "right", "confidence", "true_probability")
    found, classes = contents.predictions, contents.classes
    if found is None:
        return _frame([], columns)
    # Of several labels, what is least sure stands for a photo.
    least = (
        of.reshape(-1, contents.questions).min(axis=1).tolist()
        for of in (found.confidence, found.true_probability)
    )
    answers = contents.texts(contents.labels), contents.texts(found.predicted)
    rows: list[dict[str, Any]] = [
        {
            "path": photo.path,
            "label": label,
            "predicted": answer,
            "right": label == answer,
            "confidence": sure,
            "true_probability": true,
        }
        for photo, label, answer, sure, true in zip(contents.photos, *answers, *least, strict=True)
    ]
    if found.probabilities is not None and len(classes) <= MOST_CLASSES:
        names = [f"p {name}" for name in classes]
        table = found.probabilities
        if contents.questions > 1:
            table = table[:, 1].reshape(-1, contents.questions)
        for row, probabilities in zip(rows, table.tolist(), strict=True):
            row |= dict(zip(names, probabilities, strict=True))
    return _frame(rows, columns)


def _duplicates(contents: Contents) -> dict[str, "pd.DataFrame"]:
    """Return the pairs that `check-data` found: none if it was not run."""
    if contents.check is None:
        return {}
    whose = tuple(f"{who}_{what}" for who in ("first", "second") for what in _OF_PHOTO)
    rows = [
        {f"{who}_{what}": pair[who][what] for who in ("first", "second") for what in _OF_PHOTO}
        | {name: pair[name] for name in _OF_PAIR}
        for pair in contents.check["pairs"]
    ]
    return {"duplicates": _frame(rows, (*whose, *_OF_PAIR))}
