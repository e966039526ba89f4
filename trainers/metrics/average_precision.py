"""Mean average precision of several labels."""

import numpy as np

from trainers.metrics.kinds import Numbers, OfRanks


class MeanAveragePrecision(OfRanks):
    """The mean over labels of the precision at each photo that has the label; equals together."""

    name = "mean_average_precision"
    tag = "map"

    def of_sweep(self, hits: Numbers, named: Numbers) -> tuple[float, Numbers, Numbers]:
        """Return the mean precision; a photo adds to those of all that come after it as well."""
        new, precision, count = np.diff(hits, prepend=0), hits / named, hits[-1]
        score = float(new @ precision / count)
        after = (new * precision / named)[::-1].cumsum()[::-1] / count
        found = (new / named)[::-1].cumsum()[::-1] / count
        return score, (precision - score) / count + found - after, -after
