"""Probabilities that are read when they are asked for: the same answers, in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from study.criterion import Criterion
from study.statistics import areas, tables
from study.statistics.scoring import Candidates, Scorer
from study.statistics.tables import Tables
from trainers.decision import Decision

CANDIDATES, PHOTOS, CLASSES = 40, 150, 60
LABELS = np.arange(PHOTOS) % CLASSES


def table_of(column: int) -> NDArray[np.float32]:
    """Make one candidate's probabilities, the later the better."""
    odds = np.exp(np.random.default_rng(column).normal(size=(PHOTOS, CLASSES)))
    odds[np.arange(PHOTOS), LABELS] *= 1 + column
    table: NDArray[np.float32] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return table


def whole() -> NDArray[np.float32]:
    """Return all of them as one array."""
    return np.stack([table_of(column) for column in range(CANDIDATES)])


def scorer_of(criterion: Criterion, probabilities: NDArray[np.float32] | Tables) -> Scorer:
    """Make a scorer of them; each mistake costs alike."""
    predicted = np.stack([table_of(c).argmax(axis=1) for c in range(CANDIDATES)])
    true = np.stack([table_of(c)[np.arange(PHOTOS), LABELS] for c in range(CANDIDATES)])
    found = Candidates(LABELS, CLASSES, predicted, true, probabilities)
    priced = criterion is Criterion.COST
    return Scorer(found, criterion, Decision.plain(CLASSES) if priced else None)


@pytest.mark.parametrize("held", [1, 3 * PHOTOS * CLASSES, 10**9])
def test_tables_stand_for_an_array(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate, a slice and (columns, rows), again and again, however few are held."""
    monkeypatch.setattr(tables, "HELD", held)
    lazy, array, rng = Tables(table_of, CANDIDATES), whole(), np.random.default_rng(0)
    assert len(lazy) == CANDIDATES
    np.testing.assert_array_equal(np.stack(list(lazy)), array)
    np.testing.assert_array_equal(np.asarray(lazy[35:99]), array[35:99])
    for _ in range(5):
        columns, rows = rng.integers(0, CANDIDATES, 90), rng.integers(0, PHOTOS, 90)
        np.testing.assert_array_equal(lazy[columns, rows], array[columns, rows])
        np.testing.assert_array_equal(lazy[columns[0]], array[columns[0]])


@pytest.mark.parametrize("criterion", [Criterion.AUROC, Criterion.COST])
def test_what_is_read_when_asked_for_scores_alike(
    criterion: Criterion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, one choice and one photo's share: as of an array that is in memory."""
    held = scorer_of(criterion, whole())
    rng = np.random.default_rng(0)
    inside = (rng.random((PHOTOS, 7)) < 0.8).astype(np.float32)
    expected = held.within(inside)
    for module in (tables, areas):
        monkeypatch.setattr(module, "HELD", 3 * PHOTOS * CLASSES)
    lazy = scorer_of(criterion, Tables(table_of, CANDIDATES))
    np.testing.assert_allclose(lazy.within(inside), expected, atol=1e-6)
    columns, rows = rng.integers(0, CANDIDATES, PHOTOS), np.arange(PHOTOS)
    assert lazy.score(columns, rows) == held.score(columns, rows)
    np.testing.assert_array_equal(lazy.gains(7), held.gains(7))


def test_memory_is_bounded_by_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of forty candidates, two are held: the areas of all take less than half of all tables."""
    for module in (tables, areas):
        monkeypatch.setattr(module, "HELD", 2 * PHOTOS * CLASSES)
    lazy = scorer_of(Criterion.AUROC, Tables(table_of, CANDIDATES))
    inside = np.ones((PHOTOS, 7), np.float32)
    tracemalloc.start()
    try:
        lazy.within(inside)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CANDIDATES * PHOTOS * CLASSES * 4 / 2
