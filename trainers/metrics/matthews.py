"""Matthews correlation."""

import numpy as np

from trainers.metrics.kinds import Floats, OfClasses


class Matthews(OfClasses):
    """The correlation of predicted and true classes, from -1 to 1; a constant prediction has 0.

    Of more than two classes Gorodkin's (2004), as scikit-learn's `matthews_corrcoef` has it. It is
    high only where each class is found and what is named is right, so rare classes count in the
    calibrated loss as frequent ones do.
    """

    name = "matthews"
    tag = "mcc"
    is_share = False
    classes_alike = True
    lowest = -1.0
    kinds = frozenset({"class"})

    @property
    def label(self) -> str:
        """Its display name."""
        return "Matthews correlation"

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return the covariance over the square root of the variances; 0 where one is 0."""
        # Of many photos, squares are beyond what float32 holds exactly.
        right, true, named = (np.asarray(x, np.float64) for x in (hits, photos, predicted))
        n = true.sum(axis=0)
        covariance = right.sum(axis=0) * n - (true * named).sum(axis=0)
        variances = (n**2 - (true**2).sum(axis=0)) * (n**2 - (named**2).sum(axis=0))
        root = np.sqrt(np.maximum(variances, 0))
        found: Floats = np.divide(covariance, root, out=np.zeros_like(covariance), where=root > 0)
        return found
