"""A whole study on disk for the tests: everything is real but the training, which is arithmetic."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from storage.database import open_database
from storage.errors import StudyNotFound
from storage.folders import settle
from storage.ownership import Claim
from storage.paths import open_vault
from storage.records import Kind, ManifestRecord, Role, State, StudyRecord, Trial
from storage.retry import Patience
from storage.store import Store
from storage.transactions import once
from storage.vault import Vault
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.config.space import describe_space
from study.engines.base import Engine
from study.engines.inline import InlineEngine
from study.events import Progress
from study.searching.coordinator import Coordinator, Searched
from study.searching.drafts import Draft
from study.searching.forecasting import explorer_of
from study.searching.optuna_study import Suggestions
from study.searching.ownership import Ownership
from study.searching.policy import SearchPolicy
from study.searching.sealing import THREAD as SEALING
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Split
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Stage
from trainers.synthetic import SyntheticTrainer

LABELS = np.repeat(np.arange(3), 20)
SECONDS = 1.5
"""What every epoch claims to have taken."""


def stage(size: int = 32, lr: float = 1e-3, epochs: int = 1, **others: Any) -> Stage:
    """Make a stage."""
    return Stage(image_size=size, batch_size=8, lrs=lr, cycle_len=epochs, **others)  # type: ignore[arg-type]


def schedule(*stages: Stage) -> Schedule:
    """Make a schedule."""
    return Schedule(backbone="net", stages=stages, weights="random")


BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
"""When all trials of `trial_of` began, so that records that say the same are equal."""


def trial_of(of: Schedule, number: int = 0, **others: Any) -> Trial:
    """Make the record of a trial that runs, but for what `others` says."""
    given = {"schedule_json": of.to_json(), "seed": 0, "role": Role.EXPLORE, "state": State.RUNNING}
    first = {"id": number + 1, "study_id": 1, "number": number, "started_at": BEGUN}
    return Trial(**(first | given | others))


class OptunaTrial(NamedTuple):
    """What Optuna's rows say of a trial."""

    state: str
    value: float | None
    reported: dict[int, float]


class Noting(SyntheticTrainer):
    """A synthetic trainer that notes each task (by the start of its key) and where it starts."""

    killed = False
    """Whether its process is to have died: then it writes nothing more."""

    def __init__(self, labels: Any, n_classes: int, **options: Any) -> None:
        super().__init__(labels, n_classes, **options)
        self.trained: list[str] = []
        self.starts: list[Path | None] = []

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as the synthetic trainer does, but take some seconds."""
        self.killed = False
        self.trained.append(task.folder.name)
        self.starts.append(task.start)
        if task.start is not None and not task.start.is_file():
            raise FileNotFoundError(f"weights to start from must be there, got {task.start}")
        for metrics in super().train(task):
            yield replace(metrics, seconds=SECONDS)


class Scripted(Suggestions):
    """Real Optuna trials, but the schedules are those of a script, in its order."""

    def __init__(
        self, script: Sequence[Schedule], store: Store, study_id: int, **real: Any
    ) -> None:
        super().__init__(**real)
        self._script, self._store, self._ours = script, store, study_id

    def draft(self, space: object, weights: str, turn: int) -> Draft:  # noqa: ARG002
        """Return the next schedule: what a crash kept from our tables is asked for again."""
        trials = self._store.trials(self._ours)
        asked = sum(trial.role is Role.EXPLORE for trial in trials)
        return Draft(self._script[asked], {}, {})


@dataclass
class Bench:
    """A coordinator and all that it stands on."""

    store: Store
    vault: Vault
    study: StudyRecord
    suggestions: Suggestions
    trainer: Noting
    engine: Engine
    coordinator: Coordinator


class Lab:
    """A study in a folder. Each `search` builds all anew, as another process would."""

    def __init__(
        self,
        folder: Path,
        script: Sequence[Schedule] = (),
        *,
        manifest: Manifest | None = None,
        template: Path | None = None,
        url: str | None = None,
        **settings: Any,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self.url = url or f"sqlite:///{folder / 'encore.db'}"
        self.patience: Patience | None = None
        if template is not None:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(template, folder / "encore.db")
        self._settings: dict[str, Any] = {
            "sampler": "random",
            "strategy": "independent",
            "study": "lab",
        }
        self.given: Sequence[Schedule] = ()
        self.configure(script, **settings)
        labels = LABELS if manifest is None else manifest.labels(Split.VALID)
        classes = 3 if manifest is None else len(manifest.classes)
        self.trainer = Noting(labels, classes, metric=self.config.metric)
        self.digest = "d" * 64 if manifest is None else manifest.digest
        self.make_engine: Callable[[Noting], Engine] = InlineEngine
        self.told: list[Progress] = []
        self.said: list[str] = []

    def configure(self, script: Sequence[Schedule], **settings: Any) -> None:
        """Set the script, and settings by the names of flags, now or for the next search."""
        self.script = script
        self._settings |= {"storage": self.url, "trials": len(script) or 3} | settings
        self.config: StudyConfig = load_config(settings_of(**self._settings))

    @property
    def policy(self) -> SearchPolicy:
        """What decides, made anew as in each process."""
        explorer = explorer_of(self.config, "random", 100)
        return SearchPolicy(self.config, explorer, self.given)

    @contextmanager
    def bench(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Bench]:
        """Build everything, and let go of it afterwards."""
        database = open_database(self.url)
        study = self._study(Store(database))
        with Ownership(Store(database), study.id) as mine:
            store = Store(database).fenced(mine.claim, self.patience or once)
            study = settle(store, self.url, study, self.said.append)
            yield from self._bench(store, study, mine.claim, stop)
        database.dispose()

    def _bench(
        self, store: Store, study: StudyRecord, claim: Claim, stop: Callable[[], bool]
    ) -> Iterator[Bench]:
        real: dict[str, Any] = {
            "patience": self.patience,
            "claim": claim,
            "url": self.url,
            "name": "lab",
            "metric": self.config.metric,
            "sampler": self.config.sampler,
            "seed": self.config.seeds.first,
        }
        suggestions = (
            Scripted(self.script, store, study.id, **real) if self.script else Suggestions(**real)
        )
        vault = open_vault(self.url, study, owner=claim.token)
        engine = self.make_engine(self.trainer)
        coordinator = Coordinator(
            Searched(study, self.trainer.labels, self.config, "random"),
            policy=self.policy,
            store=store,
            vault=vault,
            suggestions=suggestions,
            engine=engine,
            listener=self.told.append,
            stop=stop,
        )
        try:
            yield Bench(store, vault, study, suggestions, self.trainer, engine, coordinator)
        finally:
            for thread in threading.enumerate():  # a process that is killed has none
                if thread.name == SEALING:
                    thread.join()
            engine.close()
            store.close()
            suggestions._storage.engine.dispose()

    def search(self, stop: Callable[[], bool] = lambda: False) -> list[Progress]:
        """Search until the budget is spent; return what was told."""
        self.told = []
        with self.bench(stop) as bench:
            bench.coordinator.run()
        return self.told

    def _study(self, store: Store) -> StudyRecord:
        try:
            return store.study("lab")
        except StudyNotFound:
            plain, space = self.config.model_dump(mode="json"), self.config.resolved_space
            if self.manifest is not None:
                root, text = str(self.manifest.root), self.manifest.to_json()
                store.save_manifest(ManifestRecord(digest=self.digest, root=root, document=text))
            described = describe_space(space)
            return store.create_study("lab", self.config.metric, self.digest, plain, described)

    @contextmanager
    def reading(self) -> Iterator[tuple[Store, StudyRecord, Vault]]:
        """Open the store and the vault to look at them."""
        store = Store(open_database(self.url))
        try:
            study = store.study("lab")
            yield store, study, open_vault(self.url, study)
        finally:
            store.close()

    def outcome(self) -> dict[str, Any]:
        """Return all that came of a search but numbers, names and times, to be compared."""
        with self.reading() as (store, study, vault):
            keys = {run.id: run.key for run in store.stage_runs(study.id)}
            kept = store.checkpoints(study.id)
            contents = {(c.stage_run_id, c.kind): _content(vault.path(c.path)) for c in kept}
            return {
                "trials": sorted(
                    (
                        *(t.schedule_digest, t.seed, t.role, t.state, t.score, t.loss, t.failure),
                        *(keys.get(t.best_stage_run or -1), t.best_epoch, t.seconds),
                    )
                    for t in store.trials(study.id)
                ),
                "runs": {
                    run.key: (
                        *(run.state, run.position, run.seed, run.seconds),
                        [replace(e, stage_run_id=0) for e in store.epochs(run.id)],
                        {
                            c.kind: (c.epoch, c.score, contents[run.id, c.kind])
                            for c in store.checkpoints_of(run.id)
                        },
                    )
                    for run in store.stage_runs(study.id)
                },
            }

    def check_order(self, *, over: bool = True) -> None:
        """Check that each row points to its file and, if the search is over, nothing is left.

        Weights may be missing that were deleted on purpose.
        """
        with self.reading() as (store, study, vault):
            kept = store.checkpoints(study.id)
            assert [c.path for c in kept if not vault.verify(c.path, c.sha256)] == []
            deleted = {(gone.stage_run_id, gone.epoch) for gone in store.deletions(study.id)}
            for ranked in store.ranking(study):
                if ranked.checkpoint is None:
                    assert (ranked.trial.best_stage_run, ranked.trial.best_epoch) in deleted
                    continue
                assert ranked.checkpoint.kind is Kind.BEST
                assert ranked.checkpoint.epoch == ranked.trial.best_epoch
                assert ranked.checkpoint.score == ranked.trial.score
            if over:
                assert store.running_trials(study.id) == []
                assert [r for r in store.stage_runs(study.id) if r.state is State.RUNNING] == []
                assert vault.strays(store.known_paths(study.id)) == {}
                assert all(each.path.startswith("stages/") for each in store.pending(study.id))
                theirs = self.optuna_trials()
                assert [number for number, one in theirs.items() if one.state == "RUNNING"] == []

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database, past Optuna and all of ours."""
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(statement).fetchall()

    def optuna_trials(self) -> dict[int, OptunaTrial]:
        """Read Optuna's own rows, past Optuna and all of ours."""
        trials = self.sql(
            "SELECT trial_id, number, state, value FROM trials LEFT JOIN trial_values USING "
            "(trial_id) ORDER BY number"
        )
        steps = "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values"
        reported: dict[int, dict[int, float]] = {trial: {} for trial, *_ in trials}
        for trial, step, value in self.sql(steps):
            reported[trial][step] = value
        return {
            number: OptunaTrial(state, value, reported[trial])
            for trial, number, state, value in trials
        }


def _content(path: Path) -> tuple[Any, ...]:
    # Not the file's hash: safetensors writes several keys of metadata in any order.
    with safetensors.safe_open(path, framework="np") as file:
        return float(file.get_tensor("skill")[0]), sorted(file.metadata().items())


def optuna_study(url: str) -> Any:
    """Open Optuna's own study, past all of ours."""
    import optuna

    return optuna.load_study(study_name="lab", storage=url)
