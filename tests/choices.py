"""What there is to choose from, made of tables."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.selection.choosable import Choosable
from study.statistics.scoring import Candidates, Scorer
from trainers.metrics import Metric


def could_be(
    tables: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    metric: Metric = Metric.ACCURACY,
    epochs: int = 1,
    most: int | None = None,
    anyhow: Sequence[int] = (),
) -> Choosable:
    """Make trials of so many epochs each, of which the files of the `most` best are kept."""
    columns, rows = np.arange(len(tables)), np.arange(len(labels))
    trials = len(tables) // epochs
    candidates = Candidates(labels, tables.shape[2], tables.argmax(2), tables[:, rows, labels])
    return Choosable(
        scorer=Scorer(candidates, metric),
        epochs=[(column, 0) for column in columns],
        columns=columns,
        starts=np.arange(0, len(tables) + 1, epochs),
        most=trials if most is None else most,
        anyhow=np.isin(np.arange(trials), anyhow),
        read=lambda found: tables[[column for column, _ in found]],
    )
