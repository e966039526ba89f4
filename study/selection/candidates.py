"""The candidates of a choice: every epoch of every trial, with its predictions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from storage.predictions import StoredPredictions
from storage.records import Role, State, StudyRecord, Trial
from storage.store import Store
from study.criterion import Criterion
from study.errors import NothingToSelect
from study.selection.goals import Goal
from study.statistics.groups import Groups
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import Trials
from study.statistics.tables import HELD, Table, Tables
from trainers.data.manifest import Manifest, Split
from trainers.decision import Decision
from trainers.temperature import fit_temperature

LIMIT = 1000
"""Maximum number of epochs that are compared: weaker ones have no chance."""

FITTED = 30
"""Number of candidates whose temperatures give the common one."""

Epoch = tuple[int | None, int | None]
"""A stage run's id, and one of its epochs; a trial without a score has neither."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pool:
    """The epochs of a scorer's candidates, and their trials.

    `seeds` are the trials that count, by schedule, of all candidate schedules; `stopped` counts the
    seeds of a schedule that are not among them, since they lost a race on their first folds. Such
    schedules are not in `trials`. `damaged` names predictions that were skipped, since the database
    cannot read them.
    """

    scorer: Scorer
    epochs: dict[Epoch, int]
    trials: Trials
    seeds: dict[str, list[Trial]]
    stopped: Mapping[str, int] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()


def gather(
    store: Store,
    study: StudyRecord,
    manifest: Manifest,
    criterion: Criterion,
    goal: Goal | None,
) -> Pool:
    """Read the predictions of a study's best epochs, and of all trials in means.

    Raises `NothingToSelect` if there are none, or too little of them is stored.
    """
    labels, n_classes = manifest.labels(Split.VALID), manifest.n_answers
    leading = store.leading_epochs(study, LIMIT)
    if not leading:
        raise NothingToSelect(_why_nothing(study.name, store.trials(study.id)))
    trials, links = store.trials(study.id), store.links(study.id)
    seeds = _in_the_running(trials, links, leading)
    if criterion.needs_probabilities:
        full = {(e.stage_run_id, e.epoch) for e in store.kept_predictions(study) if e.full}
        leading = [epoch for epoch in leading if epoch in full]
        seeds = {d: s for d, s in seeds.items() if all(best_epoch(t) in full for t in s)}
        if not seeds:
            raise _shortened(criterion)
    # A mean without weak seeds would be optimistic.
    wanted = [*leading, *(best_epoch(trial) for same in seeds.values() for trial in same)]
    wanted = list(dict.fromkeys(wanted))
    lean = not criterion.needs_probabilities or len(wanted) * len(labels) * n_classes > HELD
    found = store.readable_predictions(wanted, labels, whole=not lean)
    seeds = {d: [t for t in same if best_epoch(t) in found] for d, same in seeds.items()}
    seeds = {digest: same for digest, same in seeds.items() if same}
    if not seeds:
        raise NothingToSelect(
            f"of study {study.name!r} no predictions can be read: the database is damaged; "
            "restore it from a copy, or search again under another --study"
        )
    kept = [epoch for epoch in wanted if epoch in found]

    def read(place: int) -> Table:
        return _table(store.predictions_of([kept[place]], labels)[0], criterion)

    tables = Tables(read, len(kept)) if lean and criterion.needs_probabilities else None
    epochs = {epoch: place for place, epoch in enumerate(kept)}
    predictions, groups = [found[epoch] for epoch in kept], manifest.groups(Split.VALID)
    scorer = scorer_of(
        predictions, labels, n_classes, criterion, goal, tables, groups, manifest.n_questions
    )
    damaged = (each for each in wanted if each not in found)
    named = tuple("the predictions of stage run {}, epoch {}".format(*each) for each in damaged)
    stopped = _stopped(trials)
    if seeds.keys() <= stopped.keys():
        stopped = {}
    racing = {digest: same for digest, same in seeds.items() if digest not in stopped}
    return Pool(scorer, epochs, _trials(racing, links, epochs), seeds, stopped, named)


def _why_nothing(study: str, trials: Sequence[Trial]) -> str:
    failures = [trial.failure for trial in trials if trial.state is State.FAILED]
    if failures and len(failures) == len(trials):
        return (
            f"every trial of study {study!r} has failed, the last with {failures[-1]}; fix the "
            "cause and search with more --trials"
        )
    return f"no trial of study {study!r} has finished yet; let the search run on"


def scorer_of(
    found: Sequence[StoredPredictions],
    labels: Labels,
    n_classes: int,
    criterion: Criterion,
    goal: Goal | None,
    tables: Tables | None = None,
    groups: Groups | None = None,
    questions: int = 1,
) -> Scorer:
    """Make predictions comparable by a criterion; `NothingToSelect` if they do not suffice.

    `tables` are the probabilities that `found` lacks; `groups` are those of the photos.
    """
    probabilities: NDArray[np.float32] | Tables | None = tables
    if criterion.needs_probabilities and tables is None:
        probabilities = np.stack([_table(each, criterion) for each in found])
    candidates = Candidates(
        labels=labels,
        n_classes=n_classes,
        predicted=np.stack([each.predicted for each in found]),
        p_true=np.stack([each.true_probability for each in found]),
        probabilities=probabilities,
        groups=groups,
        questions=questions,
    )
    if criterion is not Criterion.COST:
        return Scorer(candidates, criterion)
    return Scorer(candidates, criterion, _rule(candidates, goal))


def _table(found: StoredPredictions, criterion: Criterion) -> Table:
    if found.probabilities is None:
        raise _shortened(criterion)
    # A custom trainer may have yielded NaN.
    table: Table = np.nan_to_num(found.probabilities)
    return table


def _shortened(criterion: Criterion) -> NothingToSelect:
    return NothingToSelect(
        f"{criterion} needs the probabilities of all classes, which are not kept of so many photos "
        "and classes; choose by another --metric"
    )


def _in_the_running(
    trials: Sequence[Trial], links: Sequence[tuple[int, int, int]], leading: Sequence[Epoch]
) -> dict[str, list[Trial]]:
    """Return the trials that count, by schedule, of the schedules with a leading epoch."""
    runs = {run for run, _ in leading}
    leaders = {number for number, _, run in links if run in runs}
    running = {trial.schedule_digest for trial in trials if trial.number in leaders}
    return counted([trial for trial in trials if trial.schedule_digest in running])


def counted(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Return each schedule's trials that count.

    The complete ones, or the pruned ones if there are none. A pruned trial's score is not that of
    its schedule.
    """
    found: dict[str, list[Trial]] = defaultdict(list)
    scored = [trial for trial in trials if trial.score is not None]
    complete = {trial.schedule_digest for trial in scored if trial.state is State.COMPLETE}
    for trial in scored:
        pruned = trial.state is State.PRUNED and trial.schedule_digest not in complete
        if pruned or trial.state is State.COMPLETE:
            found[trial.schedule_digest].append(trial)
    return found


def _stopped(trials: Sequence[Trial]) -> dict[str, int]:
    """Count each schedule's seeds that lost a race on their first folds.

    A mean without them is too high, unless they were trained on all folds since.
    """
    lost = {(t.schedule_digest, t.seed) for t in trials if t.role is Role.REPEAT and t.was_beaten}
    lost -= {(t.schedule_digest, t.seed) for t in trials if t.state is State.COMPLETE}
    return Counter(digest for digest, _ in lost)


def best_epoch(trial: Trial) -> Epoch:
    """Return a trial's best epoch."""
    return trial.best_stage_run, trial.best_epoch


def _trials(
    seeds: dict[str, list[Trial]], links: Sequence[tuple[int, int, int]], epochs: dict[Epoch, int]
) -> Trials:
    of_run: dict[int | None, list[int]] = defaultdict(list)
    for (run, _), column in epochs.items():
        of_run[run].append(column)
    of_trial: dict[int, list[int]] = defaultdict(list)
    for number, _, run in links:
        of_trial[number] += of_run[run]
    columns, starts, schedules = [], [0], []
    for schedule, same in enumerate(seeds.values()):
        for trial in same:
            if mine := of_trial[trial.number]:
                columns += mine
                starts.append(len(columns))
                schedules.append(schedule)
    return Trials(*(np.array(each, np.int64) for each in (columns, starts, schedules)))


def _rule(candidates: Candidates, goal: Goal | None) -> Decision:
    """Return the rule that prices the predictions of all candidates.

    With its own temperature, fitted on all photos, each candidate would be calibrated on the
    held-out fold as well: costs were a quarter too low in simulations. So all share one, the median
    of some of the best.
    """
    if goal is None:
        raise NothingToSelect(
            'cost needs prices to choose by; give --cost "TRUE>PREDICTED=PRICE" or [costs] '
            "in study.toml"
        )
    some = candidates.every_probability[:FITTED]
    fitted = [fit_temperature(candidates.labels, table) for table in some]
    return replace(goal.priced, temperature=float(np.exp(np.median(np.log(fitted)))))
