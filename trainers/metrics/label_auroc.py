"""Areas under the ROC curves of several labels."""

import numpy as np

from trainers.metrics.kinds import Numbers, OfRanks


class MacroAuroc(OfRanks):
    """The mean over labels of the area under the ROC curve: a photo with it comes before another.

    A tie is half a win.
    """

    name = "macro_auroc"
    tag = "mauc"

    @property
    def label(self) -> str:
        """Its name as people write it."""
        return "macro AUROC"

    def of_sweep(self, hits: Numbers, named: Numbers) -> tuple[float, Numbers, Numbers]:
        """Return the area; a photo adds the share of the other kind that it is told from."""
        wrong = named - hits
        told = 1 - (wrong - np.diff(wrong, prepend=0) / 2) / wrong[-1]
        before = (hits - np.diff(hits, prepend=0) / 2) / hits[-1]
        score = float(np.diff(hits, prepend=0) @ told / hits[-1])
        return score, (told - score) / hits[-1], (before - score) / wrong[-1]
