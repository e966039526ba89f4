"""The weights files of stage runs: checking and sealing them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from storage.records import Checkpoint, EpochRecord, Kind, StageRun, State, Trial
from storage.store import Store
from storage.vault import StoredFile, Vault
from study.formatting import size_text, weights_name
from study.stage_tree import Trained
from trainers.base import BEST, LAST
from trainers.handover import network_alone
from trainers.metrics import Metric
from trainers.schedule import Stage

_SOURCES = {Kind.BEST: BEST, Kind.LAST: LAST}


@dataclass(frozen=True)
class Sealed:
    """The sealed weights files of a stage run, and the earlier ones that they replace."""

    files: Sequence[Checkpoint]
    replaced: Sequence[Checkpoint]


@dataclass(frozen=True)
class Copied:
    """The copied weights files of a stage run's `twin` in another `study`."""

    twin: StageRun
    study: str
    files: Sequence[Checkpoint]


class WeightsFiles:
    """Keeps a study's rows and files consistent: files first, then rows."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        metric: Metric,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._say = say
        self._vault = vault
        self._metric = metric

    def take_over(self, study_id: int, keys: set[str]) -> None:
        """Clean up after an earlier search that stopped, was killed, or lost the study.

        Files that it had begun to seal are removed, as they never got a row. Its workspaces of the
        stage runs `keys` are continued.
        """
        left = self._store.pending(study_id)
        self._store.note_name(study_id, self._vault.desk)
        for each in left:
            if each.sha256 is None:
                self._vault.take_over(each.path)
            else:
                self._vault.sweep(each.path, each.sha256)
        mine = {self._vault.desk}
        self._store.settle_names(study_id, {each.path for each in left} - mine)
        self._vault.clear(keys)

    def kept(self, run: StageRun) -> dict[Kind, Checkpoint]:
        """Return the sealed files of a stage run, as its rows say."""
        return {checkpoint.kind: checkpoint for checkpoint in self._store.checkpoints_of(run.id)}

    def serve(self, run: StageRun, next_starts_from: Kind | None) -> bool:
        """Return whether a stage run is complete and its files that a trial needs are intact.

        Its best weights are needed unless they were deleted on purpose: then they are not chosen.
        The weights that the next stage starts from are always needed.
        """
        if run.state is not State.COMPLETE:
            return False
        return self._serves(run, self.whole(run).keys(), next_starts_from)

    def _serves(
        self, run: StageRun, there: Collection[Kind], next_starts_from: Kind | None
    ) -> bool:
        if next_starts_from is not None and next_starts_from not in there:
            return False
        retired = {deletion.kind for deletion in self._store.deletions_of(run.id)}
        return Kind.BEST in {*there, *retired}

    def start(self, parent: StageRun | None, stage: Stage) -> Path | None:
        """Find the weights that a stage starts from, given the stage run before it."""
        if parent is None:
            return None
        return self._vault.path(self.kept(parent)[Kind(stage.start_from)].path)

    def whole(self, run: StageRun) -> dict[Kind, Checkpoint]:
        """Return the sealed files that exist unchanged; delete the rows of the others."""
        kept = self.kept(run)
        for kind, checkpoint in list(kept.items()):
            if not self._vault.verify(checkpoint.path, checkpoint.sha256, checkpoint.size):
                # A changed file may be the user's: it is not deleted.
                self._store.delete_checkpoint(run.id, kind)
                del kept[kind]
        return kept

    def trained(self, run: StageRun) -> Trained:
        """Return the result of a stage run whose epochs are all recorded."""
        epochs = self._store.epochs(run.id)
        return self._trained(epochs, sum(epoch.seconds for epoch in epochs))

    def seal(self, run: StageRun, trial: Trial, epochs_before: int, *, with_last: bool) -> Sealed:
        """Seal the files of a stage run that `trial` has trained; `enter` has to follow.

        `epochs_before` are those of the trial's earlier stages. `last` is kept if a next stage may
        start from it. Any thread may call this: it changes no rows but those of names.
        """
        epochs, before = self._store.epochs(run.id), self.kept(run)
        chosen = {Kind.BEST: self._best(epochs)}
        if with_last:
            chosen[Kind.LAST] = epochs[-1]
        sealed = []
        for kind, epoch in chosen.items():
            old = before.get(kind)
            if old and (old.epoch, old.score) == (epoch.epoch, epoch.score(self._metric)):
                # trained again because another file was missing: this one keeps its name
                sealed.append(old)
            else:
                source = self._vault.workspace(run.key) / _SOURCES[kind]
                source = network_alone(source) if kind is Kind.LAST else source
                sealed.append(self._seal_file(source, run, kind, trial, epochs_before, epoch))
        return Sealed(sealed, [old for old in before.values() if old not in sealed])

    def enter(self, run: StageRun, sealed: Sealed) -> None:
        """Record the end of a stage run whose files are sealed; delete those they replace."""
        seconds = sum(epoch.seconds for epoch in self._store.epochs(run.id))
        self._store.seal_stage_run(run.id, State.COMPLETE, seconds, sealed.files)
        for old in sealed.replaced:
            size = size_text(old.size)
            self._say(f"deleting {old.path} ({size}): its stage was trained again")
            self._vault.delete(old.path, old.sha256)
        self._vault.discard(run.key)

    def copy(
        self,
        run: StageRun,
        trial: Trial,
        epochs_before: int,
        twin: StageRun,
        study: str,
        vault: Vault,
        next_starts_from: Kind | None,
    ) -> Copied | None:
        """Copy the files of a stage run's `twin` in another study, of that name and vault.

        So the studies stay independent. None, and nothing done, if a file is missing that `serve`
        would require. As with `seal`, any thread may call this; `take` has to follow.
        """
        theirs = {
            file.kind: file
            for file in self._store.checkpoints_of(twin.id)
            if vault.verify(file.path, file.sha256, file.size)
        }
        if not self._serves(twin, theirs.keys(), next_starts_from):
            return None
        epochs = {epoch.epoch: epoch for epoch in self._store.epochs(twin.id)}
        sealed = [
            self._seal_file(
                vault.path(file.path), run, kind, trial, epochs_before, epochs[file.epoch]
            )
            for kind, file in theirs.items()
        ]
        return Copied(twin, study, sealed)

    def take(self, run: StageRun, copied: Copied) -> Trained:
        """End a stage run with the result of another study, whose files are copied."""
        self._store.take_stage_run(run, copied.twin, copied.study, copied.files)
        return self._trained(self._store.epochs(run.id), copied.twin.seconds)

    def _trained(self, epochs: Iterable[EpochRecord], seconds: float) -> Trained:
        best = self._best(epochs)
        return Trained(best.rank(self._metric), best.calibrated_loss, seconds)

    def _seal_file(
        self,
        source: Path,
        run: StageRun,
        kind: Kind,
        trial: Trial,
        epochs_before: int,
        epoch: EpochRecord,
    ) -> Checkpoint:
        score = epoch.score(self._metric)
        epochs = epochs_before + epoch.epoch
        name = weights_name(kind, trial, run.position, epochs, self._metric, score)
        stored = self._vault.seal(source, name, partial(self._note, run.study_id))
        return Checkpoint(
            stage_run_id=run.id,
            kind=kind,
            path=stored.path,
            sha256=stored.sha256,
            size=stored.size,
            epoch=epoch.epoch,
            score=score,
        )

    def _best(self, epochs: Iterable[EpochRecord]) -> EpochRecord:
        return min(epochs, key=lambda epoch: epoch.rank(self._metric))

    def _note(self, study_id: int, file: StoredFile) -> bool:
        return self._store.note_name(study_id, file.path, file.sha256)
