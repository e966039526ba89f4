"""Use case `search`: check the data once, open the store, wire the parts, run the coordinator."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from storage.database import open_database, redact
from storage.errors import StudyNotFound
from storage.places import CACHE, runs_folder
from storage.records import ManifestRecord, State, StudyRecord
from storage.store import Store
from storage.vault import Vault
from study.config import ConfigError, Preset, StudyConfig, load_config, settings_of
from study.coordinator import Coordinator
from study.engines.inline import InlineEngine
from study.ownership import Ownership
from study.policy import to_go
from study.presets import preset_schedule
from study.progress import Listener, Notice, SearchStarted, Working
from study.space import describe_space, space_changes, views_of
from trainers.data.digits import digits_folder
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest, differences
from trainers.schedule import Stage

if TYPE_CHECKING:
    from study.suggestions import Suggestions
    from trainers.finetuner import Finetuner


@dataclass(frozen=True)
class SearchOutcome:
    """What a search left: the study's trials that have ended, those to go, why it left off."""

    study: str
    ended: int
    to_go: int
    stopped: bool


def search(
    config: StudyConfig | None = None,
    *,
    listener: Listener = lambda _: None,
    **settings: Any,
) -> SearchOutcome:
    """Search schedules until the budget is spent; the same call again goes on where it was.

    Give a `StudyConfig`, or settings by the names of the command line's flags: data, trials,
    study, storage, metric, repeats, finalists, ... `listener` is told what happens. Raises
    `ConfigError`, `DatasetError`, `StudyInUse`, `WeightsUnavailable`, `TooManyFailures` and the
    database's errors; nothing is written before data and settings have been checked.
    """
    config = config or load_config(settings_of(**settings))
    manifest = _manifest(config, listener)
    trainer, weights = _trainer(config, manifest, listener)
    store = Store(open_database(config.storage))
    try:
        study = _study(store, config, manifest)
        with Ownership(store, study.id) as ownership:
            _begin(store, study, config, manifest, listener)
            # Before there is a trial, there is nothing to finish: Ctrl-C stops at once.
            trainer.prepare(_views(config), _telling(listener, "decoding photos"))
            with _interruption() as interrupted:
                coordinator = Coordinator(
                    study_id=study.id,
                    manifest_digest=manifest.digest,
                    config=config,
                    weights=weights,
                    store=store,
                    vault=Vault(runs_folder(config.storage) / config.study_name),
                    suggestions=_suggestions(config),
                    engine=InlineEngine(trainer),
                    listener=listener,
                    stop=lambda: bool(interrupted.is_set() or ownership.lost),
                )
                coordinator.run()
                if ownership.lost:
                    raise ownership.lost
                trials = store.trials(study.id)
                ended = sum(trial.state is not State.RUNNING for trial in trials)
                return SearchOutcome(
                    config.study_name, ended, to_go(trials, config), interrupted.is_set()
                )
    finally:
        store.close()


def _manifest(config: StudyConfig, listener: Listener) -> Manifest:
    """Freeze the data; refuse it if the study knows it otherwise."""
    known, seed = _known_manifest(config)
    if config.data.source is None:
        source = digits_folder(runs_folder(config.storage) / "data")
    else:
        source = Path(config.data.source)
    root = Path(config.data.root) if config.data.root else None
    progress = _telling(listener, "reading photos")
    manifest = build_manifest(source, data_root=root, seed=seed, known=known, progress=progress)
    if known is not None and known.digest != manifest.digest:
        raise DatasetError(
            f"the data of study {config.study_name!r} have changed: "
            f"{differences(known, manifest)}; put them back as they were, or "
            "give the search a new name with --study"
        )
    return manifest


def _known_manifest(config: StudyConfig) -> tuple[Manifest | None, int]:
    """Give the manifest that the study was begun with, if it was, and the seed of its splits."""
    try:
        store = Store(open_database(config.storage, create=False))
    except StudyNotFound:
        return None, config.seeds.first
    try:
        study = store.study(config.study_name)
        record = store.manifest(study.manifest_digest)
        # The splits stay as they are, whatever seed explores from now on.
        return Manifest.from_json(record.document, Path(record.root)), study.config["split_seed"]
    except StudyNotFound:
        return None, config.seeds.first
    finally:
        store.close()


def _telling(listener: Listener, what: str) -> Callable[[int, int], None]:
    return lambda done, total: listener(Working(what, done, total))


def _trainer(
    config: StudyConfig, manifest: Manifest, listener: Listener
) -> "tuple[Finetuner, str]":
    """Make the trainer, and find out what schedules say of the backbone's weights.

    Every backbone is built once, so that weights which cannot be had are found now.
    """
    from trainers.backbone import build_network, file_digest  # torch: seconds to import
    from trainers.data.cache import Cache
    from trainers.device import choose_compute
    from trainers.finetuner import Finetuner

    file = Path(config.weights) if config.weights not in (None, "random") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"there is no weights file {str(file)!r}; check --weights")
    weights = file_digest(file) if file else (config.weights or "pretrained")
    try:
        trainer = Finetuner(
            manifest,
            metric=config.metric,
            compute=choose_compute(
                config.device,
                config.precision,
                compiled=config.compile,
                deterministic=config.deterministic,
            ),
            weights_file=file,
            cache=Cache(
                runs_folder(config.storage) / CACHE,
                manifest,
                limit=config.data.cache_limit,
                say=lambda text: listener(Notice(text)),
            ),
            checkpoint_seconds=config.checkpoint_seconds,
        )
        for backbone in config.resolved_space.backbone:
            schedule = preset_schedule(Preset.QUICK, backbone, weights)
            build_network(schedule, len(manifest.classes), 0, file)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return trainer, weights


def _views(config: StudyConfig) -> list[Stage]:
    """Give stages that look at photos in every way that this search may."""
    stages = views_of(config.resolved_space)
    if config.preset:
        stages += preset_schedule(config.preset, config.resolved_space.backbone[0], "random").stages
    return stages


def _study(store: Store, config: StudyConfig, manifest: Manifest) -> StudyRecord:
    """Find the study, or create it. The first settings of metric and space are for good."""
    space = describe_space(config.resolved_space)
    plain = {**_plain(config), "split_seed": config.seeds.first}
    try:
        study = store.study(config.study_name)
    except StudyNotFound:
        store.save_manifest(
            ManifestRecord(
                digest=manifest.digest,
                root=str(manifest.root.resolve()),
                document=manifest.to_json(),
            )
        )
        return store.create_study(config.study_name, config.metric, manifest.digest, plain, space)
    changes = space_changes(study.space, space)
    if changes:
        raise ConfigError(
            f"the search space of study {study.name!r} has changed ({changes}); "
            "give it back its old space, or give the search a new name with --study"
        )
    if study.metric is not config.metric:
        raise ConfigError(
            f"study {study.name!r} ranks by {study.metric}, not by {config.metric}; "
            f"give --metric {study.metric}, or give the search a new name with --study"
        )
    return study


def _begin(
    store: Store, study: StudyRecord, config: StudyConfig, manifest: Manifest, listener: Listener
) -> None:
    store.update_config(study.id, {**study.config, **_plain(config)})
    trials = store.trials(study.id)
    ranking = store.ranking(study)
    listener(
        SearchStarted(
            study=study.name,
            metric=study.metric,
            data=_describe(config, manifest),
            done=sum(trial.state is not State.RUNNING for trial in trials),
            to_go=to_go(trials, config),
            best_score=ranking[0].trial.score if ranking else None,
            left_out=manifest.left_out,
        )
    )


def _plain(config: StudyConfig) -> dict[str, Any]:
    """Give the config as it is stored: without the database's password."""
    return {**config.model_dump(mode="json"), "storage": redact(config.storage)}


def _describe(config: StudyConfig, manifest: Manifest) -> str:
    counts = ", ".join(f"{len(manifest.of_split(split)):,} {split}" for split in Split)
    name = config.data.source or "the handwritten digits of scikit-learn (no --data was given)"
    return f"{name}: {len(manifest.classes)} classes, {counts}"


def _suggestions(config: StudyConfig) -> "Suggestions":
    from study.suggestions import Suggestions

    return Suggestions(
        config.storage,
        config.study_name,
        metric=config.metric,
        sampler=config.sampler,
        pruner=config.pruner,
        seed=config.seeds.first,
    )


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C (or SIGTERM) sets; the second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
