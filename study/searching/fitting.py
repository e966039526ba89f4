"""Fit the settings to the frozen data, and choose the schedules that are tried first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from storage.records import StudyRecord
from study.config.portfolio import TYPICAL, DataFacts, peers, portfolio, probes, space_for
from study.config.presets import preset_schedule
from study.config.schema import StudyConfig
from study.config.space import space_of
from study.engines.slots import Slot
from trainers.data.decoding import typical_short_side
from trainers.data.manifest import Manifest, Split
from trainers.schedule import Schedule


@dataclass(frozen=True)
class Fit:
    """Settings with a space that fits the data, or is the user's `own`; and the data's facts.

    `liked` are the best schedules of the study given with --like, if any.
    """

    config: StudyConfig
    facts: DataFacts = TYPICAL
    own: bool = False
    liked: tuple[Schedule, ...] = ()


def fitted_to(
    config: StudyConfig, manifest: Manifest, slots: Sequence[Slot], study: StudyRecord | None
) -> Fit:
    """Return settings that fit the data. A study keeps its space, on other devices too."""
    facts = TYPICAL if config.trainer else data_facts(manifest, slots)
    own = config.space is not None
    if own:
        return Fit(config, facts, own)
    if study is not None:
        space = space_of(study.space)
    elif config.trainer or config.data.source is None:
        space = config.resolved_space
    else:
        space = space_for(facts, config.backbone)
    return Fit(config.model_copy(update={"space": space}), facts)


def data_facts(manifest: Manifest, slots: Sequence[Slot]) -> DataFacts:
    """Return the facts that the recipe depends on; the headers of some photos are read for that."""
    seen = manifest.of_one_network()
    training = seen.of_split(Split.TRAIN)
    of_class = [n for n in seen.counts(Split.TRAIN) if n]
    # Of several labels, classes are not balanced: what is rare is rarely there.
    largest = max(of_class) if manifest.n_questions == 1 else min(of_class)
    return DataFacts(
        training=len(training),
        validation=len(manifest.of_split(Split.VALID)),
        classes=len(manifest.classes),
        short_side=typical_short_side(manifest),
        smallest_class=min(of_class),
        largest_class=largest,
        on_gpu=not any(slot.device.startswith("cpu") for slot in slots),
    )


def tried_first(fit: Fit, weights: str) -> tuple[Schedule, ...]:
    """Return the first schedules: probes, the preset, those of --like, the portfolio, peers.

    A custom trainer has no probes. Nor are there any for the digits: their space is known to work,
    pretrained features help little, and probes would take the time of ten trials.
    """
    config = fit.config
    backbone, ours = config.resolved_space.backbone[0], config.trainer is None
    portfolio_fits = config.portfolio and ours and config.data.source is not None
    given: list[Schedule] = []
    if portfolio_fits:
        given += probes(fit.facts, backbone, weights)
    if config.preset:
        given.append(preset_schedule(config.preset, fit.facts, backbone, weights, probe=ours))
    given += [replace(schedule, weights=weights) for schedule in fit.liked]
    if portfolio_fits and not fit.own:
        given += portfolio(fit.facts, backbone, weights)
        given += peers(fit.facts, backbone, weights)
    return tuple(dict.fromkeys(given))
