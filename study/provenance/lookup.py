"""Find the trial, stage run and epoch of a trial's number or a weights file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from storage.paths import open_vault
from storage.records import Checkpoint, Deletion, Kind, StageRun, StudyRecord, Trial, stage_run_key
from storage.store import Store
from study.errors import NotInStudy
from study.invocation import hint
from study.studies import find_study, find_trial
from trainers.files import sha256_of
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from trainers.card import WeightsCard


class FileState(StrEnum):
    """The state of a weights file; UNLISTED is one without a row."""

    WHOLE = "whole"
    CHANGED = "changed"
    MISSING = "missing"
    DELETED = "deleted"
    NEVER_KEPT = "never kept"
    UNLISTED = "unlisted"


@dataclass(frozen=True)
class Origin:
    """The epoch of a stage run that weights were saved at, as recorded in the database.

    `row` is that of the weights file, which may be deleted; None if there was none.
    """

    study: StudyRecord
    trial: Trial
    run: StageRun
    kind: Kind
    epoch: int
    row: Checkpoint | None

    @property
    def prefix(self) -> Schedule:
        """The stages that made the weights."""
        return self.trial.schedule.prefixes()[self.run.position]

    def under(self, seed: int) -> "Origin":
        """Return the same stages under another seed."""
        return replace(self, trial=replace(self.trial, seed=seed))

    @property
    def is_the_trial_s_best(self) -> bool:
        """Whether the trial's number alone identifies these weights."""
        best = self.trial.best_stage_run, self.trial.best_epoch
        return self.kind is Kind.BEST and best == (self.run.id, self.epoch)


@dataclass(frozen=True)
class FoundWeights:
    """The weights of a number or a path; their origin, file or card may be unknown."""

    origin: Origin | None
    file: Path | None
    sha256: str | None
    card: "WeightsCard | None"

    @property
    def made_by(self) -> dict[str, str]:
        """What the card records of the environment that made it."""
        return dict(self.card.made_by) if self.card else {}

    @property
    def state(self) -> FileState:
        """The state of the file."""
        row = self.origin.row if self.origin else None
        if self.sha256 is not None:
            if row is None:
                return FileState.UNLISTED
            return FileState.WHOLE if self.sha256 == row.sha256 else FileState.CHANGED
        if row is None:
            return FileState.NEVER_KEPT
        return FileState.DELETED if isinstance(row, Deletion) else FileState.MISSING


def find(target: str, study: str | None, store: Store, storage: str) -> FoundWeights:
    """Find the weights of a trial's number or a path.

    Raises LookupError if there are none, `NotOurWeights` for a file that Encore did not write.
    """
    if target.isdecimal():
        record = find_study(store, study)
        origin = of_trial(store, record, int(target))
        return _with_file(origin, _file_of(origin, storage))
    file, studies = Path(target), [find_study(store, study)] if study else store.studies()
    if file.is_dir():
        raise NotInStudy(f"{target!r} is a folder; give a trial's number or a weights file")
    known = _of_content(store, studies, file) or _of_place(store, studies, storage, file)
    if known is not None:
        return _with_file(known, file)
    if not file.exists():
        raise NotInStudy(
            f"{target!r} is neither a trial's number nor a file; `{hint('ls')}` lists the "
            f"trials, and `{hint('show')} TRIAL` the files of one"
        )
    card = read_card_of(file)
    return FoundWeights(_of_card(store, studies, card), file, sha256_of(file), card)


def _with_file(origin: Origin, file: Path | None) -> FoundWeights:
    if file is None or not file.is_file():
        return FoundWeights(origin, file, None, None)
    return FoundWeights(origin, file, sha256_of(file), _card_if_any(file))


def of_trial(store: Store, study: StudyRecord, number: int) -> Origin:
    """Return the best epoch of a trial; LookupError if it has none."""
    trial = find_trial(store, study, number)
    runs = {run.id: run for run in store.stage_runs_of(trial.id)}
    if trial.best_epoch is None or trial.best_stage_run not in runs:
        raise LookupError(
            f"trial {number} of study {study.name!r} ({trial.state}) has no epoch to make again"
        )
    run = runs[trial.best_stage_run]
    row = _row(store, run, Kind.BEST, trial.best_epoch)
    return Origin(study, trial, run, Kind.BEST, trial.best_epoch, row)


def read_card_of(file: Path) -> "WeightsCard":
    """Read and validate a weights file's card.

    Raises `NotOurWeights`.
    """
    from trainers.card import read_card
    from trainers.errors import NotOurWeights  # torch: seconds to import

    try:
        card = read_card(file)
        Schedule.from_dict(card.schedule)
        for name in ("seed", "stage", "epoch"):
            if not isinstance(number := getattr(card, name), int):
                raise NotOurWeights(f"{name} must be a whole number, got {number!r}")
        texts = [card.manifest_digest, *dict(card.packages), *dict(card.packages).values()]
        if not all(isinstance(text, str) for text in texts):
            raise NotOurWeights("versions and digests must be texts")
        dict(card.metrics)
    except (NotOurWeights, AttributeError, TypeError, ValueError) as error:
        where = "" if str(file) in str(error) else f"{file}: "
        raise NotOurWeights(f"{where}{error}") from None
    return card


def _card_if_any(file: Path) -> "WeightsCard | None":
    """Read a card where there may be none: a `last` has none, nor has a custom trainer's file."""
    from trainers.errors import NotOurWeights

    try:
        return read_card_of(file)
    except NotOurWeights:
        return None


def _file_of(origin: Origin, storage: str) -> Path | None:
    """Return the path of a file, even if it is gone; it is fetched if it is kept elsewhere."""
    row, vault = origin.row, open_vault(storage, origin.study)
    if row is None:
        return None
    if not isinstance(row, Deletion):
        vault.verify(row.path, row.sha256, row.size)
    return vault.path(row.path)


def _of_content(store: Store, studies: Iterable[StudyRecord], file: Path) -> Origin | None:
    """Find the weights with the same bytes as a file, wherever it is."""
    if not file.is_file():
        return None
    sha256 = sha256_of(file)
    return _of_row(store, studies, lambda _, row: row.sha256 == sha256)


def _of_place(
    store: Store, studies: Iterable[StudyRecord], storage: str, file: Path
) -> Origin | None:
    """Find the weights that are, or were, at a path of the vault."""
    place = file.resolve()

    def lies_there(study: StudyRecord, row: Checkpoint) -> bool:
        return open_vault(storage, study).path(row.path).resolve() == place

    return _of_row(store, studies, lies_there)


def _of_row(
    store: Store,
    studies: Iterable[StudyRecord],
    fits: Callable[[StudyRecord, Checkpoint], bool],
) -> Origin | None:
    for study in studies:
        row = next((row for row in _rows(store, study) if fits(study, row)), None)
        if row is not None:
            run = next(run for run in store.stage_runs(study.id) if run.id == row.stage_run_id)
            trial = store.trial(study.id, run.trial_number)
            return Origin(study, trial, run, row.kind, row.epoch, row)
    return None


def _of_card(store: Store, studies: Iterable[StudyRecord], card: "WeightsCard") -> Origin | None:
    """Find the stage run that a card describes: the bytes of a copy may differ, e.g. by prices."""
    key = stage_run_key(card.manifest_digest, Schedule.from_dict(card.schedule), card.seed)
    for study in studies:
        run = store.stage_run(study.id, key)
        if run is not None and any(e.epoch == card.epoch for e in store.epochs(run.id)):
            trial = store.trial(study.id, run.trial_number)
            row = _row(store, run, Kind.BEST, card.epoch)
            return Origin(study, trial, run, Kind.BEST, card.epoch, row)
    return None


def _rows(store: Store, study: StudyRecord) -> Iterator[Checkpoint]:
    """Yield existing weights before deleted ones: the same may have been made again."""
    yield from store.checkpoints(study.id)
    yield from reversed(store.deletions(study.id))


def _row(store: Store, run: StageRun, kind: Kind, epoch: int) -> Checkpoint | None:
    rows = [*store.checkpoints_of(run.id), *reversed(store.deletions_of(run.id))]
    return next((row for row in rows if (row.kind, row.epoch) == (kind, epoch)), None)
