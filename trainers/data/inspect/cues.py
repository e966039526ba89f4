"""Trivial cues: whether metadata alone separate the classes, without looking at the photos."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.facts import Facts
from trainers.data.inspect.findings import Cue
from trainers.data.manifest import Photo

FOLDS = 5
LEVEL = 0.01
"""The significance level for all cues together."""

SHARE = 0.25
"""A cue leaks if it removes at least this share of the error of guessing."""

COLOUR_SHARE = 0.8
"""The same for colour, which may belong to the classes: roses are redder than tulips."""

SEPARATED = 0.9
"""From this area under the ROC curve on, a class counts as separated from all others."""

MOST = 20_000
"""Maximum number of photos that are used."""

JITTER = 0.03
"""The noise that is added to a number, as a share of its standard deviation."""

_COLOUR = "mean colour"


def find_cues(
    photos: Sequence[Photo], facts: Sequence[Facts], n_classes: int, seed: int = 0
) -> tuple[Cue, ...]:
    """Probe metadata of photos: size, aspect, file format, compression, colour.

    Each is scored by the cross-validated balanced accuracy of a linear probe. Classes of fewer than
    5 photos are excluded; fewer than two remaining classes give no cues.
    """
    labels = np.array([photo.label for photo in photos], np.int64)
    counts = np.bincount(labels, minlength=n_classes)
    chosen = np.flatnonzero(counts[labels] >= FOLDS)
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST, replace=False))
    classes, own = np.unique(labels[chosen], return_inverse=True)
    if len(classes) < 2 or np.bincount(own).min() < FOLDS:
        return ()
    tables = _tables([facts[int(index)] for index in chosen])
    found = []
    for name, table in tables.items():
        if (table == table[0]).all():  # nothing varies
            continue
        found.append(_cue(name, table, own, classes, len(tables), seed))
    return tuple(found)


def _tables(facts: Sequence[Facts]) -> dict[str, NDArray[np.float64]]:
    """Return each cue's numbers, (n, columns)."""
    sides = np.log([[each.width, each.height] for each in facts])
    formats = sorted({each.format for each in facts})
    return {
        "size": sides,
        "aspect": np.column_stack([sides[:, 0] - sides[:, 1], np.abs(sides[:, 0] - sides[:, 1])]),
        "file format": np.array(
            [[each.format == name for name in formats] for each in facts], float
        ),
        "bytes per pixel": np.log([[e.n_bytes / (e.width * e.height)] for e in facts]),
        _COLOUR: np.array([each.colour for each in facts]),
    }


def _cue(
    name: str,
    table: NDArray[np.float64],
    own: NDArray[np.int64],
    classes: NDArray[np.int64],
    n_cues: int,
    seed: int,
) -> Cue:
    from scipy.stats import norm
    from sklearn.metrics import roc_auc_score

    scores = _out_of_fold(table, own, seed)
    right = scores.argmax(axis=1) == own
    sizes = np.bincount(own)
    recalls = np.bincount(own, weights=right) / sizes
    accuracy, chance = float(recalls.mean()), 1 / len(classes)
    # When guessing, each class's recall is a share of its photos, and their mean is nearly normal.
    spread = np.sqrt(np.mean(chance * (1 - chance) / sizes) / len(classes))
    p_value = float(norm.sf((accuracy - chance) / spread))
    least = COLOUR_SHARE if name == _COLOUR else SHARE
    apart = [
        int(label)
        for place, label in enumerate(classes)
        if roc_auc_score(own == place, scores[:, place]) >= SEPARATED
    ]
    leaks = p_value * n_cues < LEVEL and accuracy >= chance + least * (1 - chance)
    return Cue(name, accuracy, chance, p_value, leaks, tuple(apart))


def _out_of_fold(
    table: NDArray[np.float64], own: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Return each photo's score of each class, (n, C), by a probe fitted without its fold.

    Linear discriminant analysis has a closed form and stays fast with a thousand classes. It needs
    some variance within classes, which a file format lacks.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    n_classes = int(own.max()) + 1
    alike = np.full(n_classes, 1 / n_classes)
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.01, priors=alike)
    table = StandardScaler().fit_transform(table)
    table += np.random.default_rng(seed).normal(scale=JITTER, size=table.shape)
    scores = np.zeros((len(own), n_classes))
    for fitted, judged in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(table, own):
        probe.fit(table[fitted], own[fitted])
        scores[judged] = probe.predict_proba(table[judged])
    return scores
