"""Use case `plan`: what a search would cost, before anything is spent.

The search is rehearsed: the real policy, tree and sampler over a trainer that is arithmetic, in a
database that is thrown away. What it would have trained is paid at the measured price of an epoch.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from storage.database import open_database
from storage.errors import StudyNotFound
from storage.records import StageRun, Trial
from storage.store import Store
from storage.vault import Vault
from study.config import ConfigError, EngineKind, Sampler, StudyConfig
from study.coordinator import Coordinator
from study.engines.base import Engine, EpochEnded, StageFailed
from study.engines.inline import InlineEngine
from study.failures import TooManyFailures
from study.fitting import Fit, fit
from study.freezing import known_data, pass_gate, read_data
from study.progress import Listener, noticing
from study.searching import make_suggestions, search_policy
from study.slots import Slot
from study.studies import open_study, refuse_old
from study.training import check_backbones, choose_slots, choose_weights, make_engine, recipe
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Stage
from trainers.synthetic import SyntheticTrainer

REHEARSED = 200
"""At most so many trials are rehearsed; a longer search is reckoned from them."""

SAMPLE = 96
"""Photos of each split that an epoch is measured on, where the study has none yet."""


@dataclass(frozen=True)
class SizePlan:
    """What is to be trained at an image size; `measured` says if its epochs were ever timed."""

    image_size: int
    seconds_per_epoch: float
    measured: bool
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A search's expected cost. `alone_seconds` is what its trials cost if each trained all."""

    study: str
    trials: int
    slots: int
    sizes: tuple[SizePlan, ...]
    seconds: float
    alone_seconds: float

    @property
    def wall_seconds(self) -> float:
        """How long it takes if all slots are busy throughout."""
        return self.seconds / self.slots


def plan(config: StudyConfig, *, listener: Listener = lambda _: None) -> Plan:
    """Estimate what a search costs, without its repeats. Raises what `search` does."""
    slots, weights = choose_slots(config), choose_weights(config)
    search_policy(Fit(config), weights)  # a grid is read before anything is timed
    begun = known_data(config)
    if begun.study is not None:
        refuse_old(begun.study)
    read = read_data(config, begun, listener)
    manifest = pass_gate(config, begun, read, listener).manifest
    fitted = fit(config, manifest, slots, begun.study)
    config, known = fitted.config, _known_prices(config)
    runs, trials = _rehearse(fitted, manifest)
    scale = max(1.0, config.budget.trials / REHEARSED)
    missing = sorted({run.image_size for run in runs} - known.keys())
    count, prices = len(slots), known
    if missing or config.engine is EngineKind.RAY:
        count, timed = _measure(config, manifest, slots, weights, missing, noticing(listener))
        prices = known | timed
    epochs: Counter[int] = Counter()
    for run in runs:
        epochs[run.image_size] += run.epochs
    lines = tuple(
        SizePlan(size, prices[size], size in known, round(scale * n), scale * n * prices[size])
        for size, n in sorted(epochs.items())
    )
    alone = sum(
        stage.epochs * prices.get(stage.image_size, 0.0)
        for trial in trials
        for stage in trial.schedule.stages
    )
    return Plan(
        study=config.study_name,
        trials=config.budget.trials,
        slots=count,
        sizes=lines,
        seconds=sum(line.seconds for line in lines),
        alone_seconds=scale * alone,
    )


def _rehearse(fitted: Fit, manifest: Manifest) -> tuple[list[StageRun], list[Trial]]:
    """Run the search with a trainer that takes no time; give what it trained."""
    config = fitted.config
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'rehearsal.db'}"
        trials = min(config.budget.trials, REHEARSED)
        mine = config.model_copy(
            update={
                "storage": url,
                "sampler": Sampler.RANDOM,  # at once, and a pessimist about what will be shared
                "budget": config.budget.model_copy(update={"trials": trials}),
                "seeds": config.seeds.model_copy(update={"repeats": 0}),
            }
        )
        store = Store(open_database(url))
        try:
            study = open_study(store, mine, manifest)
            labels = manifest.labels(Split.VALID)[:SAMPLE]
            trainer = SyntheticTrainer(labels, len(manifest.classes), metric=config.metric)
            coordinator = Coordinator(
                study=study,
                labels=labels,
                config=mine,
                weights="random",
                policy=search_policy(replace(fitted, config=mine), "random"),
                store=store,
                vault=Vault(Path(folder) / "weights"),
                suggestions=make_suggestions(mine),
                engine=InlineEngine(trainer),
                listener=lambda _: None,
                stop=lambda: False,
            )
            coordinator.run()
            return store.stage_runs(study.id), store.trials(study.id)
        finally:
            store.close()


def _known_prices(config: StudyConfig) -> dict[int, float]:
    """Give the seconds of an epoch at each image size that the study has trained at."""
    try:
        store = Store(open_database(config.storage, create=False))
    except StudyNotFound:
        return {}
    try:
        study = store.study(config.study_name)
        sizes = {run.id: run.image_size for run in store.stage_runs(study.id)}
        seconds: dict[int, list[float]] = defaultdict(list)
        for epoch in store.epochs_of_study(study.id):
            seconds[sizes[epoch.stage_run_id]].append(epoch.seconds)
        return {size: median(times) for size, times in seconds.items()}
    except StudyNotFound:
        return {}
    finally:
        store.close()


def _measure(
    config: StudyConfig,
    manifest: Manifest,
    slots: Sequence[Slot],
    weights: str,
    sizes: Sequence[int],
    say: Callable[[str], None],
) -> tuple[int, dict[int, float]]:
    """Give how many slots there are, and what an epoch at each size takes in one of them."""
    if sizes and config.trainer is not None:
        raise ConfigError(
            "plan cannot time a trainer of your own; run `search --trials 1` with it first, "
            "then its epochs are known"
        )
    few = replace(manifest, photos=tuple(p for split in Split for p in _spread(manifest, split)))
    with TemporaryDirectory() as folder:
        made = recipe(config, few, Path(folder) / "cache")
        with closing(make_engine(config, made, slots)) as engine:
            if not sizes:
                return engine.slots, {}
            say(f"timing epochs at {', '.join(map(str, sizes))} px")
            check_backbones(config, made, weights)
            tasks = {size: _task(config, weights, size, Path(folder) / str(size)) for size in sizes}
            stages = [task.schedule.stages[0] for task in tasks.values()]
            made.prepare(stages, lambda *_: None, say)
            return engine.slots, {
                size: _price(_time(engine, task), few, manifest) for size, task in tasks.items()
            }


def _task(config: StudyConfig, weights: str, size: int, folder: Path) -> StageTask:
    space = config.resolved_space
    batch = max(space.of_stage(0)["batch_size"])
    stage = Stage(image_size=size, batch_size=batch, cycle_len=2)
    schedule = Schedule(
        backbone=space.backbone[0], hidden=space.hidden[0], stages=(stage,), weights=weights
    )
    folder.mkdir()
    return StageTask(schedule=schedule, seed=0, folder=folder)


def _time(engine: Engine, task: StageTask) -> EpochMetrics:
    """Train, and give the last epoch: the first one also warms up."""
    engine.submit(task.folder.name, task)
    epochs = []
    for event in engine.events():
        match event:
            case EpochEnded(_, metrics):
                epochs.append(metrics)
            case StageFailed(_, kind, reason):
                raise TooManyFailures(
                    f"an epoch at {task.folder.name} px cannot be timed: {kind}: {reason}"
                )
    return epochs[-1]


def _price(epoch: EpochMetrics, few: Manifest, manifest: Manifest) -> float:
    """Give the seconds that an epoch on all photos takes, by one on few."""
    training = len(few.of_split(Split.TRAIN)) / epoch.images_per_second
    validation = (epoch.seconds - training) / len(few.of_split(Split.VALID))
    return (
        len(manifest.of_split(Split.TRAIN)) / epoch.images_per_second
        + len(manifest.of_split(Split.VALID)) * validation
    )


def _spread(manifest: Manifest, split: Split) -> list[Photo]:
    photos = manifest.of_split(split)
    return list(photos[:: max(1, len(photos) // SAMPLE)][:SAMPLE])
