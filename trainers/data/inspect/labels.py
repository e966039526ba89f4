"""Doubtful labels, by a classifier that has not seen the photo: confident learning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.findings import Doubt
from trainers.data.manifest import Photo

FOLDS = 5
FEWEST = FOLDS
"""Classes with fewer photos (duplicates counted once) are skipped."""

_DIMENSIONS = 128  # of the features: more improve a linear classifier little, and take minutes
_AT_ONCE = 1024
_STRENGTH = 0.01  # inverse of the regularisation: frozen features of a few photos overfit


def doubt_labels(
    photos: Sequence[Photo],
    features: NDArray[np.float32],
    groups: NDArray[np.int64],
    n_classes: int,
    seed: int = 0,
) -> tuple[Doubt, ...]:
    """Return the photos whose labels are probably wrong, the most probable first.

    `features` are (n, F), of a frozen backbone. Each photo's probabilities come from a logistic
    regression that was fitted without its fold; photos of one of the `groups`, (n,), share a fold.
    Which labels are doubted is decided by confident learning (Northcutt et al. 2021, cleanlab).
    """
    labels = np.array([photo.label for photo in photos], np.int64)
    sizes = [len(np.unique(groups[labels == label])) for label in range(n_classes)]
    judged = np.flatnonzero(np.isin(labels, [c for c, size in enumerate(sizes) if size >= FEWEST]))
    classes, own = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return ()
    from cleanlab.filter import find_label_issues  # seconds to import

    probabilities = out_of_fold(own, _reduced(features)[judged], groups[judged], seed)
    ranked = find_label_issues(
        own, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return tuple(
        Doubt(
            photo=photos[judged[index]],
            suggested=int(classes[probabilities[index].argmax()]),
            suggested_probability=float(probabilities[index].max()),
            own_probability=float(probabilities[index, own[index]]),
        )
        for index in ranked
        if probabilities[index].argmax() != own[index]
    )


def out_of_fold(
    labels: NDArray[Any], features: NDArray[np.float32], groups: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return each photo's probabilities, (n, C), by a classifier fitted without its fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=300))
    probabilities = np.zeros((len(features), int(labels.max()) + 1))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fitted, judged in folds.split(features, labels, groups):
        classifier.fit(features[fitted], labels[fitted])
        # A fold may lack a class that has few photos.
        probabilities[np.ix_(judged, classifier.classes_)] = classifier.predict_proba(
            features[judged]
        )
    return probabilities


def _reduced(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the principal components, some photos at a time to save memory."""
    from sklearn.decomposition import IncrementalPCA
    from sklearn.utils import gen_batches

    n, width = features.shape
    kept = min(_DIMENSIONS, width, n // 2)
    reduce = IncrementalPCA(kept)
    parts = list(gen_batches(n, _AT_ONCE, min_batch_size=kept))
    for part in parts:
        reduce.partial_fit(features[part])  # `fit` would copy them all
    return np.concatenate([reduce.transform(features[part]).astype(np.float32) for part in parts])
