"""Whether something trivial tells the classes apart, without a look at the photos themselves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.data.inspect.facts import Facts
from trainers.data.inspect.findings import Cue
from trainers.data.manifest import Photo

FOLDS = 5
LEVEL = 0.01
"""How often, at most, luck makes any of the cues seem to leak."""

SHARE = 0.25
"""A cue leaks if it takes away so much of the error that guessing makes, or more."""

COLOUR_SHARE = 0.8
"""The same of colour, which may well belong to what is shown: roses are redder than tulips."""

SEPARATED = 0.9
"""From this area under the ROC curve on, a class is told from all others."""

MOST = 20_000
"""Of more photos, so many are looked at."""

JITTER = 0.03
"""Of the spread of a number over all photos, so much is added to it at random."""

_COLOUR = "mean colour"


def find_cues(
    photos: Sequence[Photo], facts: Sequence[Facts], n_classes: int, seed: int = 0
) -> tuple[Cue, ...]:
    """Probe what can be known of photos unseen: size, aspect, file format, compression, colour.

    Each is judged by the balanced accuracy of a linear probe, cross-validated. Classes of fewer
    than 5 photos are left out; with fewer than two others there is nothing to probe.
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
    # Guessing, each class's recall is a share of its own photos, and their mean is nearly normal.
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

    Linear discriminant analysis, being in closed form, takes little longer for a thousand classes.
    It needs some spread within classes, which a file format has not.
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
