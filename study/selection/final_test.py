"""Use case `best --final-test`: the chosen weights on the test photos."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from storage.records import Look
from storage.store import open_store
from study.criterion import Criterion
from study.datasets.download import at_hand
from study.datasets.unchanged import check_photos
from study.errors import NothingToSelect
from study.selection.result import Selection
from study.statistics.folds import Labels
from study.statistics.intervals import of_share
from study.statistics.scoring import Candidates, Scorer
from study.statistics.tables import Table
from study.studies import find_study, manifest_of
from trainers.data.manifest import Manifest, Split
from trainers.metrics import Evaluation


@dataclass(frozen=True)
class FinalTest:
    """The chosen weights on the `photos` test photos, and all looks so far, this one last.

    `low` and `high` are the 95 % interval of their accuracy (Wilson), by `groups` of them if there
    are any (None otherwise). `cost` is that of the decision rule per photo, if prices were set.
    Where photos have several, accuracy and errors are of so many `labels` of all photos, each there
    or not.
    """

    score: float
    accuracy: float
    low: float
    high: float
    errors: int
    photos: int
    cost: float | None
    looks: tuple[Look, ...]
    groups: int | None = None
    labels: int | None = None


def final_test(
    chosen: Selection, *, storage: str, device: str = "auto", augment: bool | None = None
) -> FinalTest:
    """Score the weights on the test photos.

    Each look is counted, as choosing by these photos makes scores optimistic as well. With
    `augment`, predictions are averaged over mirror images; None means as in validation.

    Raises `NothingToSelect` where there are none, `DatasetError` where they have changed.
    """
    with open_store(storage, create=False) as store:
        study = find_study(store, chosen.study)
        manifest = at_hand(manifest_of(store, study), study, storage)
        photos, labels = manifest.of_split(Split.TEST), manifest.labels(Split.TEST)
        if not photos:
            raise NothingToSelect(
                f"study {study.name!r} has no test photos: its data has no split `test`; give "
                "the photos one and search under another --study"
            )
        check_photos(study.name, manifest, (Split.TEST,))
        from trainers.classifier import load  # torch: seconds to import

        classifier = load(chosen.file, device)
        paths = [manifest.root / photo.path for photo in photos]
        probabilities = manifest.kind.table(classifier.predict(paths, augment=augment))
        predicted = Evaluation(labels, probabilities).predicted
        right = predicted == labels
        cost = _cost(chosen, labels, probabilities)
        score = cost
        if chosen.metric is not Criterion.COST or score is None:
            score = _score(chosen, labels, probabilities, manifest)
        look = Look(
            study_id=study.id,
            trial=chosen.trial,
            sha256=chosen.sha256,
            criterion=chosen.metric.value,
            score=score,
            errors=int((~right).sum()),
            photos=len(photos),
            looked_at=datetime.now(UTC),
        )
        store.record_look(look)
        low, high = of_share(right, manifest.groups(Split.TEST))
        return FinalTest(
            score=score,
            accuracy=float(right.mean()),
            low=low,
            high=high,
            errors=look.errors,
            photos=look.photos,
            groups=manifest.n_groups(Split.TEST),
            cost=cost,
            labels=len(labels) if manifest.n_questions > 1 else None,
            looks=tuple(store.looks(study.id)),
        )


def _cost(chosen: Selection, labels: Labels, probabilities: Table) -> float | None:
    """Return the cost of the decision rule per photo; None without prices."""
    if not (chosen.goal and chosen.operation):
        return None
    answers = chosen.operation.decision.decide(probabilities)
    return float(chosen.goal.priced.prices(labels, answers).mean())


def _score(chosen: Selection, labels: Labels, probabilities: Table, manifest: Manifest) -> float:
    rows, found = np.arange(len(labels)), Evaluation(labels, probabilities)
    candidates = Candidates(
        labels=labels,
        n_classes=manifest.n_answers,
        predicted=found.predicted[None],
        p_true=probabilities[rows, found.columns][None],
        probabilities=probabilities[None],
        questions=manifest.n_questions,
    )
    return Scorer(candidates, chosen.metric).score(np.zeros_like(rows), rows)
