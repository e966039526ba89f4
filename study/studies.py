"""The study's row: found or created, with its permanent settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from storage.errors import NoSuchStudy, StudyNotFound, StudyTooOld
from storage.records import ManifestRecord, StudyRecord, Trial
from storage.redaction import redact, redact_word
from storage.store import Store
from study.config.loading import load_config
from study.config.schema import Strategy, StudyConfig
from study.config.space import SPACE_VERSION, describe_space, space_changes, space_of
from study.config.validation import section_in
from study.errors import ConfigError, NotInStudy
from study.invocation import hint
from trainers.data.manifest import Manifest
from trainers.labels import SEVERAL
from trainers.metrics import Criterion


def open_study(store: Store, config: StudyConfig, manifest: Manifest) -> StudyRecord:
    """Find the study, or create it. The first metric, space, trainer and vault stay."""
    space = describe_space(config.resolved_space)
    plain = {**plain_config(config), "split_seed": config.seeds.first}
    try:
        study = store.study(config.study_name)
    except StudyNotFound:
        keep_manifest(store, manifest)
        return store.create_study(config.study_name, config.metric, manifest.digest, plain, space)
    refuse_old(study)
    changes = space_changes(study.space, space)
    if changes:
        raise ConfigError(
            f"the search space of study {study.name!r} has changed ({changes}); "
            "restore its old space, or give the search a new name with --study"
        )
    if study.metric is not config.metric:
        raise ConfigError(
            f"study {study.name!r} ranks by {study.metric}, not by {config.metric}; "
            f"give --metric {study.metric}, or give the search a new name with --study"
        )
    if study.config.get("trainer") != config.trainer:
        raise ConfigError(
            f"study {study.name!r} is trained by {study.config.get('trainer') or 'Encore itself'}, "
            f"not by {config.trainer or 'Encore itself'}; give the search a new name with --study"
        )
    if study.config.get("vault") != config.vault:
        kept = study.config.get("vault")
        raise ConfigError(
            f"the weights of study {study.name!r} are kept "
            f"{f'under {kept}' if kept else 'beside the database'}; give "
            f"{f'--vault {kept}' if kept else 'no --vault'}, or give the search a new name with "
            "--study"
        )
    return study


def refuse_old(study: StudyRecord) -> None:
    """Raise StudyTooOld if continuing would mix results of incompatible versions."""
    if study.space.get("version", SPACE_VERSION) < SPACE_VERSION:
        raise StudyTooOld(
            f"study {study.name!r} was begun by an earlier version, which trained or searched "
            "differently: it can be read, but not continued; search under a new --study"
        )


def keep_manifest(store: Store, manifest: Manifest) -> None:
    """Store the data set; for a known one, only its location: photos may have been moved."""
    root, document = str(manifest.root.resolve()), manifest.to_json()
    store.save_manifest(ManifestRecord(digest=manifest.digest, root=root, document=document))


def plain_config(config: StudyConfig) -> dict[str, Any]:
    """Return the config as it is stored: without the passwords of any URL in it."""
    plain = {name: _plain(value) for name, value in config.model_dump(mode="json").items()}
    return {**plain, "storage": redact(config.storage)}


def _plain(value: Any) -> Any:
    return redact_word(value) if isinstance(value, str) else value


def stored_config(
    study: StudyRecord, storage: str, flags: Mapping[str, Any] | None = None
) -> StudyConfig:
    """Return the settings that a study was last searched with, under `flags`."""
    known = _of_today(study.config, StudyConfig)
    if known.get("strategy") not in list(Strategy):  # an earlier version's
        known.pop("strategy", None)
    known |= {"study": study.name, "storage": storage}  # the storage is the given one
    if study.space:
        known["space"] = space_of(study.space)
    return load_config(flags, stored=known)


def _of_today(stored: Mapping[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """Omit the settings that only an earlier version had."""
    known = {name: value for name, value in stored.items() if name in section.model_fields}
    for name, value in known.items():
        below = section_in(section.model_fields[name].annotation)
        if below is not None and isinstance(value, Mapping):
            known[name] = _of_today(value, below)
    return known


def find_study(store: Store, name: str | None) -> StudyRecord:
    """Return a study by its name or the path of its data, or the one used last."""
    if name is None:
        studies = store.studies()
        if not studies:
            raise StudyNotFound(f"the database holds no study yet; run `{hint('search')}` first")
        return studies[0]
    try:
        return store.study(name)
    except NoSuchStudy:
        for study in store.studies():  # the one used last first
            source = study.config.get("data", {}).get("source")
            if source and Path(source).resolve() == Path(name).resolve():
                return study
        raise


def manifest_of(store: Store, study: StudyRecord) -> Manifest:
    """Return the frozen data of a study."""
    record = store.manifest(study.manifest_digest)
    return Manifest.from_json(record.document, Path(record.root))


def find_trial(store: Store, study: StudyRecord, number: int) -> Trial:
    """Return a trial by its number; LookupError names the study if it has no such trial."""
    try:
        return store.trial(study.id, number)
    except LookupError:
        count = len(store.trials(study.id))
        raise NotInStudy(
            f"study {study.name!r} has no trial {number}; its {count} trials are listed "
            f"by `{hint('ls', '--study', study.name)}`"
        ) from None


def check_kind(manifest: Manifest, criterion: Criterion) -> None:
    """Raise `ConfigError` for a criterion that says nothing of such labels."""
    like = manifest.kind.like
    if not like & criterion.kinds:
        known = ", ".join(each.value for each in Criterion if like & each.kinds)
        several = manifest.kind is SEVERAL
        what = "several labels" if several else f"one {manifest.kind.name}"
        raise ConfigError(
            f"metric {criterion} is not for photos of {what} each; give one of {known}"
        )


def refuse_several(manifest: Manifest, what: str, instead: str = "leave it away") -> None:
    """Raise `ConfigError` for what has no meaning for photos of several labels each."""
    if manifest.n_questions > 1:
        raise ConfigError(
            f"{what}: only for photos of one class each, and these have several labels; {instead}"
        )
