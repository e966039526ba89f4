"""Use cases `ls` and `show`: trials and their details. Reads rows only: no torch, no Optuna."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from storage.paths import study_folder, vault_url
from storage.records import Checkpoint, EpochRecord, Kind, Role, Trial
from storage.store import Store, open_store
from study.config.schema import StudyConfig
from study.searching.statuses import Status, Statuses
from study.selection.leaks import Judged, judged_by
from study.stage_text import schedule_text, stages_text
from study.studies import find_study, find_trial
from trainers.metrics import Metric


@dataclass(frozen=True)
class TrialLine:
    """A trial in a list. `epochs` is the schedule's number, `file` its best weights."""

    number: int
    seed: int
    role: Role
    state: Status
    score: float | None
    loss: float | None
    epochs: int
    seconds: float
    schedule: str
    schedule_digest: str
    file: str | None
    failure: str | None


@dataclass(frozen=True)
class TrialList:
    """All trials of a study, in the order they began, and the photos that scores are based on."""

    study: str
    metric: Metric
    trials: tuple[TrialLine, ...]
    judged: Judged


@dataclass(frozen=True)
class StageView:
    """A stage of a trial: its settings, its epochs, its files; `trained_by` is a trial number.

    It may be `taken_from` another study, which has trained it. `settings` are all fields of the
    stage, `text` is a short description.
    """

    position: int
    key: str
    state: Status
    trained_by: int
    taken_from: str | None
    settings: dict[str, Any]
    text: str
    epochs: tuple[EpochRecord, ...]
    files: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class TrialView:
    """Everything about one trial."""

    study: str
    metric: Metric
    line: TrialLine
    backbone: str
    hidden: tuple[int, ...]
    levels: int
    started_at: datetime
    finished_at: datetime | None
    folder: str
    stages: tuple[StageView, ...]
    judged: Judged


def list_trials(study: str | None = None, *, storage: str = StudyConfig().storage) -> TrialList:
    """List a study's trials (by default of the study used last)."""
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        files: dict[tuple[int | None, int | None], str] = {
            (file.stage_run_id, file.epoch): file.path
            for file in store.checkpoints(record.id)
            if file.kind is Kind.BEST
        }
        statuses = Statuses.of(store, record)
        lines = tuple(
            _line(trial, statuses, files.get((trial.best_stage_run, trial.best_epoch)))
            for trial in store.trials(record.id)
        )
        return TrialList(record.name, record.metric, lines, judged_by(store, record))


def show_trial(
    number: int, study: str | None = None, *, storage: str = StudyConfig().storage
) -> TrialView:
    """Show one trial; LookupError names the study if it has no such trial."""
    with open_store(storage, create=False) as store:
        record = find_study(store, study)
        trial = find_trial(store, record, number)
        statuses = Statuses.of(store, record)
        stages = tuple(_stages(store, trial, statuses))
        files = {
            file.stage_run_id: file.path
            for stage in stages
            for file in stage.files
            if file.kind == "best"
        }
        return TrialView(
            study=record.name,
            metric=record.metric,
            line=_line(trial, statuses, files.get(trial.best_stage_run or -1)),
            backbone=trial.schedule.backbone,
            hidden=trial.schedule.hidden,
            levels=trial.schedule.levels,
            started_at=trial.started_at,
            finished_at=trial.finished_at,
            folder=vault_url(record) or str(study_folder(storage, record)),
            stages=stages,
            judged=judged_by(store, record),
        )


def _stages(store: Store, trial: Trial, statuses: Statuses) -> list[StageView]:
    return [
        StageView(
            position=run.position,
            key=run.key,
            state=statuses.of_stage_run(run),
            trained_by=run.trial_number,
            taken_from=run.taken_from,
            settings=asdict(trial.schedule.stages[run.position]),
            text=stages_text(trial.schedule.stages[run.position : run.position + 1]),
            epochs=tuple(store.epochs(run.id)),
            files=tuple(store.checkpoints_of(run.id)),
        )
        for run in store.stage_runs_of(trial.id)
    ]


def _line(trial: Trial, statuses: Statuses, file: str | None) -> TrialLine:
    return TrialLine(
        number=trial.number,
        seed=trial.seed,
        role=trial.role,
        state=statuses.of_trial(trial),
        score=trial.score,
        loss=trial.loss,
        epochs=trial.schedule.epochs,
        seconds=trial.seconds,
        schedule=schedule_text(trial.schedule),
        schedule_digest=trial.schedule_digest,
        file=file,
        failure=trial.failure,
    )
