"""Use case `plan`: the estimated cost of a search.

The search is simulated: with the real policy, tree and sampler, but a trainer that is a formula, in
a temporary database. Its stage runs are priced by the measured time of an epoch.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from storage.errors import StudyNotFound
from storage.store import Store, existing_store, open_store
from storage.vault import Vault
from study.config.schema import EngineKind, Sampler, Strategy, StudyConfig
from study.engines.base import Engine, EpochEnded, StageFailed
from study.engines.inline import InlineEngine
from study.engines.setup import Training, on_a_gpu
from study.engines.slots import slots_of
from study.errors import ConfigError, TooManyFailures
from study.events import Listener, noticing
from study.searching.coordinator import Coordinator, Searched
from study.searching.crowding import COUNTS, Crowd, crowds
from study.searching.first_folds import some_may_stop
from study.searching.prepare import Prepared, check_settings, prepare, search_policy
from study.searching.work import Work, work_of
from study.studies import open_study
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Photo, Split
from trainers.metrics import EpochMetrics
from trainers.schedule import Schedule, Stage, Train
from trainers.synthetic import SyntheticTrainer

REHEARSED = 200
"""Maximum number of trials that are simulated; a longer search is extrapolated."""

SAMPLE = 96
"""Photos of each split that an epoch is measured on, where the study has none yet."""


@dataclass(frozen=True)
class StageCost:
    """The training of a kind of stage; `measured` says whether its epochs were timed."""

    stage: str
    image_size: int
    seconds_per_epoch: float
    measured: bool
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A search's expected cost. `alone_seconds` is the cost without sharing between trials.

    `seconds` are those of slots, `device_seconds` of the devices that slots share. `budget` is that
    of device time, if it bounds the trials. Costs are `at_most` these where trials may stop after
    the first folds. `crowds` say what several workers on a `device` are worth, where it is a GPU.
    """

    study: str
    trials: int
    slots: int
    stages: tuple[StageCost, ...]
    seconds: float
    device_seconds: float
    alone_seconds: float
    budget: float | None
    at_most: bool = False
    crowds: tuple[Crowd, ...] = ()
    device: str = ""

    @property
    def wall_seconds(self) -> float:
        """How long it takes if all slots are busy throughout."""
        return self.seconds / self.slots


def plan(config: StudyConfig, *, listener: Listener = lambda _: None) -> Plan:
    """Estimate what a search costs, without its repeats. Raises what `search` does."""
    setup = check_settings(config, search_policy)  # before anything is timed
    with existing_store(config.storage) as store:
        ready = prepare(setup, search_policy, store, listener)
        photos = len(ready.manifest.of_one_network().of_split(Split.TRAIN))
        known = _known_prices(store, config.study_name, photos) if store else {}
    would = _rehearse(ready, photos)
    slots, prices, crowded = len(setup.slots), known, list[Crowd]()
    missing = sorted({work for work, _ in would.stage_runs} - known.keys())
    if missing or config.engine is EngineKind.RAY:
        slots, timed, crowded = _measure(ready, missing, noticing(listener))
        prices = known | timed
    found = _plan(ready.fit.config, would, slots, prices, set(known))
    return replace(
        found,
        at_most=some_may_stop(ready.fit.config, ready.manifest.folds),
        crowds=tuple(crowded),
        device=setup.slots[0].device if crowded else "",
    )


def _plan(
    config: StudyConfig,
    would: "_Rehearsal",
    slots: int,
    prices: Mapping[Work, float],
    known: Collection[Work],
) -> Plan:
    """Price the simulated training, up to the budget."""
    costs = [prices[work] * epochs for work, epochs in would.stage_runs]
    paid, scale, bound = _affordable(config, costs)
    trials = would.begun_with(paid)
    epochs: Counter[Work] = Counter()
    for work, count in would.stage_runs[:paid]:
        epochs[work] += count
    seconds = scale * sum(costs[:paid])
    alone = sum(prices.get(work, 0.0) * count for each in trials for work, count in each)
    return Plan(
        study=config.study_name,
        trials=round(scale * len(trials)),
        slots=slots,
        stages=tuple(
            StageCost(
                *(str(work), work.image_size, prices[work], work in known, round(scale * n)),
                seconds=scale * n * prices[work],
            )
            for work, n in sorted(epochs.items())
        ),
        seconds=seconds,
        device_seconds=seconds / config.workers_per_device,
        alone_seconds=scale * alone,
        budget=config.budget.compute if bound else None,
    )


def _affordable(config: StudyConfig, costs: Sequence[float]) -> tuple[int, float, bool]:
    """Return how far the budget goes for stage runs of these costs in seconds, in order.

    That is their number, the factor by which to scale the number of trials, and whether device time
    is the bound.
    """
    limit = (config.budget.compute or math.inf) * config.workers_per_device
    paid = bisect_left(list(accumulate(costs)), limit) + 1  # the one that crosses it is finished
    asked = math.inf if config.budget.trials is None else config.budget.trials
    wanted = 1.0 if config.strategy is Strategy.GRID else max(1.0, asked / REHEARSED)
    affordable = limit / sum(costs[:paid])
    bound = paid < len(costs) or affordable < wanted
    return paid, max(1.0, min(wanted, affordable)), bound


_Epochs = tuple[Work, int]
"""A kind of stage, and how many epochs of it."""


@dataclass(frozen=True)
class _Rehearsal:
    """The simulated training: its `stage_runs` in order, each with the trial that began it.

    `trials` are all stages of each trial by its number, `begun_by` the numbers of the stage runs.
    """

    stage_runs: list[_Epochs]
    begun_by: list[int]
    trials: dict[int, list[_Epochs]]

    def begun_with(self, paid: int) -> list[list[_Epochs]]:
        """Return the trials that the first stage runs complete."""
        last = self.begun_by[paid - 1] if paid < len(self.stage_runs) else math.inf
        return [stages for number, stages in self.trials.items() if number <= last]


def _rehearse(ready: Prepared, photos: int) -> _Rehearsal:
    """Run the search with a trainer that takes no time; return its stage runs."""
    from study.searching.optuna_study import Suggestions  # a second to import

    config, manifest = ready.fit.config, ready.manifest
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'rehearsal.db'}"
        trials = min(config.budget.trials or REHEARSED, REHEARSED)
        mine = config.model_copy(
            update={
                "storage": url,
                "sampler": Sampler.RANDOM,  # all at once, which is pessimistic about sharing
                "budget": config.budget.model_copy(update={"trials": trials, "compute": None}),
                "seeds": config.seeds.model_copy(update={"repeats": 0}),
            }
        )
        with open_store(url) as store:
            study = open_study(store, mine, manifest)
            labels = manifest.labels(Split.VALID)[:SAMPLE]
            answers = manifest.n_answers // manifest.n_questions
            trainer = SyntheticTrainer(labels, answers, metric=config.metric)
            Coordinator(
                Searched(study, labels, mine, "random"),
                policy=search_policy(replace(ready.fit, config=mine), "random"),
                store=store,
                vault=Vault(Path(folder) / "weights"),
                suggestions=Suggestions.of(mine),
                engine=InlineEngine(trainer),
                listener=lambda _: None,
                stop=lambda: False,
            ).run()
            runs, entered = store.stage_runs(study.id), store.trials(study.id)
    all_stages = {trial.number: _stages(trial.schedule, photos) for trial in entered}
    works = [all_stages[run.trial_number][run.position][0] for run in runs]
    return _Rehearsal(
        stage_runs=[(work, run.epochs) for work, run in zip(works, runs, strict=True)],
        begun_by=[run.trial_number for run in runs],
        trials=all_stages,
    )


def _stages(schedule: Schedule, photos: int) -> list[_Epochs]:
    works = (work_of(schedule, position, photos) for position in range(len(schedule.stages)))
    return [(work, stage.epochs) for work, stage in zip(works, schedule.stages, strict=True)]


def _known_prices(store: Store, name: str, photos: int) -> dict[Work, float]:
    """Return the seconds of an epoch of each kind that the study has trained, if there is one."""
    seconds: dict[Work, list[float]] = defaultdict(list)
    with suppress(StudyNotFound):
        study = store.study(name)
        schedules = {trial.number: trial.schedule for trial in store.trials(study.id)}
        works = {
            run.id: work_of(schedules[run.trial_number], run.position, photos)
            for run in store.stage_runs(study.id)
        }
        for epoch in store.epochs_of_study(study.id):
            seconds[works[epoch.stage_run_id]].append(epoch.seconds)
    return {work: median(times) for work, times in seconds.items()}


def _measure(
    ready: Prepared, works: Sequence[Work], say: Callable[[str], None]
) -> tuple[int, dict[Work, float], list[Crowd]]:
    """Return how many slots there are, what an epoch of each kind takes in one, and `_crowded`."""
    config, manifest, weights = ready.fit.config, ready.manifest, ready.setup.weights
    if works and config.trainer is not None:
        raise ConfigError(
            "plan cannot time your own trainer; search one trial with it first (--trials 1), then "
            "its epochs are known"
        )
    networks, manifest = max(1, manifest.folds), manifest.of_one_network()
    few = replace(manifest, photos=tuple(p for split in Split for p in _spread(manifest, split)))
    with TemporaryDirectory() as folder:
        training = ready.setup.training(config, few, Path(folder) / "cache")
        with closing(training.engine()) as engine:
            if not works:
                return engine.slots, {}, []
            passes = dict.fromkeys(replace(work, passes=1) for work in works)
            say(f"timing epochs of {'; '.join(map(str, passes))}")
            training.check_backbones()
            tasks = {
                work: _task(config, weights, work, Path(folder) / str(number))
                for number, work in enumerate(passes)
            }
            stages = [task.schedule.stages[0] for task in tasks.values()]
            training.recipe.prepare(stages, lambda *_: None, say)
            epochs = {work: _time(engine, task, str(work)) for work, task in tasks.items()}
            slots = engine.slots
        prices = {
            work: networks * _price(epochs[replace(work, passes=1)], work, few, manifest)
            for work in works
        }
        return slots, prices, _crowded(ready, training, tasks, say)


def _crowded(
    ready: Prepared,
    training: Training,
    tasks: Mapping[Work, StageTask],
    say: Callable[[str], None],
) -> list[Crowd]:
    """Return what several workers on a GPU are worth, by the first task that trains the network."""
    network = next((task for work, task in tasks.items() if work.train is Train.NETWORK), None)
    slot = ready.setup.slots[0]
    if network is None or not on_a_gpu(ready.fit.config, slot):
        return []
    say(f"timing {' and '.join(map(str, COUNTS))} workers on one device")
    return list(crowds(partial(_engine_of, training, slot.device), network))


def _engine_of(training: Training, device: str, workers: int) -> Engine:
    return training.processes(slots_of(device, workers))


def _task(config: StudyConfig, weights: str, work: Work, folder: Path) -> StageTask:
    space = config.resolved_space
    every = [space.of_stage(position) for position in range(max(space.n_stages))]
    sizes = [size for choices in every for size in choices.get("batch_size", ())]
    stage = Stage(
        train=work.train,
        image_size=work.image_size,
        batch_size=max(sizes, default=Stage.batch_size),  # probes alone have none
        cycle_len=2,
        frozen=work.frozen,
        views=int(work.cached),
        tta=work.tta,
    )
    hidden = () if work.train is Train.PROBE else space.hidden[0]
    schedule = Schedule(backbone=work.backbone, hidden=hidden, stages=(stage,), weights=weights)
    folder.mkdir()
    return StageTask(schedule=schedule, seed=0, folder=folder)


def _time(engine: Engine, task: StageTask, what: str) -> EpochMetrics:
    """Train, and return the last epoch: the first one is warm-up."""
    engine.submit(task.folder.name, task)
    epochs = []
    for event in engine.events():
        match event:
            case EpochEnded(_, metrics):
                epochs.append(metrics)
            case StageFailed(_, kind, reason):
                raise TooManyFailures(f"an epoch of {what} cannot be timed: {kind}: {reason}")
    return epochs[-1]


def _price(epoch: EpochMetrics, work: Work, few: Manifest, manifest: Manifest) -> float:
    """Return the seconds of an epoch on all photos, extrapolated from one pass over few."""
    (trained, judged), (training, validation) = (
        [len(photos.of_split(split)) for split in (Split.TRAIN, Split.VALID)]
        for photos in (few, manifest)
    )
    if work.train is Train.PROBE:  # the body processes each photo once, in training or validation
        return epoch.seconds * (training + validation) / (trained + judged)
    seconds = trained / epoch.images_per_second
    return (
        work.passes * training / epoch.images_per_second
        + validation * (epoch.seconds - seconds) / judged
    )


def _spread(manifest: Manifest, split: Split) -> list[Photo]:
    photos = manifest.of_split(split)
    return list(photos[:: max(1, len(photos) // SAMPLE)][:SAMPLE])
