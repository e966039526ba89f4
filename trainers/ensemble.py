"""Several weights files as one classifier."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainers.classifier import Classifier, load


class Ensemble:
    """Classifiers whose probabilities are averaged, each weighted by how often it counts."""

    def __init__(self, members: Sequence[tuple[Classifier, int]]) -> None:
        self.classes = members[0][0].classes
        self._members = members

    def predict(self, photos: Iterable[Path | str | Image.Image]) -> NDArray[np.float32]:
        """Return the mean probabilities of each class for each photo, shape (photos, classes).

        Raises `UnreadablePhoto` for a file that is no photo.
        """
        every = list(photos)  # each member reads them again, at its own size
        total = sum(count for _, count in self._members)
        mean = np.zeros((len(every), len(self.classes)))
        for classifier, count in self._members:
            mean += classifier.predict(every) * (count / total)
        return mean.astype(np.float32)


def load_ensemble(members: Iterable[tuple[Path | str, int]], device: str = "cpu") -> Ensemble:
    """Make an ensemble of weights files and how often each counts, as `ensemble` chose them.

    Raises `NotOurWeights`, and ValueError for files that do not have the same classes.
    """
    loaded = [(path, load(path, device), count) for path, count in members]
    if not loaded or min(count for _, _, count in loaded) < 1:
        raise ValueError(f"members must be files that count at least once, got {loaded}")
    first = loaded[0][1].classes
    for path, classifier, _ in loaded:
        if classifier.classes != first:
            raise ValueError(
                f"members must have the same classes, but {loaded[0][0]} has {list(first)} and "
                f"{path} has {list(classifier.classes)}"
            )
    return Ensemble([(classifier, count) for _, classifier, count in loaded])
