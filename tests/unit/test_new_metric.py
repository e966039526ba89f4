"""A metric is one object and one line of registration: everything else follows from it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from study.config.schema import StudyConfig
from study.criterion import Criterion
from study.formatting import score_phrase, score_text
from study.selection.ensemble import greedy
from study.statistics import selection_bias
from study.statistics.crossfit import compare, paired_p, score
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import By, Trials, bias_corrected, chooser
from trainers.metrics import Evaluation, Metric, OfClasses, criterion, register
from trainers.metrics.kinds import Floats

N, CLASSES, FILES = 120, 3, 8


class Kappa(OfClasses):
    """Cohen's kappa, by how much the answers agree beyond chance; Encore does not ship it."""

    name = "kappa"
    tag = "kappa"
    is_share = False
    lowest = -1.0

    def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:
        """Return the agreement beyond chance, over what there could be."""
        n = photos.sum(axis=0)
        chance = (photos * predicted).sum(axis=0) / n**2
        return np.asarray((hits.sum(axis=0) / n - chance) / (1 - chance))


@pytest.fixture
def kappa(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """Register a metric for one test."""
    monkeypatch.setattr(criterion, "_REGISTERED", dict(criterion._REGISTERED))
    return register(Kappa())


@pytest.fixture
def labels() -> NDArray[np.int64]:
    """Return the true classes of photos, of which one class has few."""
    return np.repeat(np.arange(CLASSES), (70, 40, 10))


@pytest.fixture
def tables(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return what files of all qualities predict."""
    rng = np.random.default_rng(0)
    odds = np.exp(rng.normal(0, 1, (FILES, N, CLASSES)))
    odds[:, np.arange(N), labels] *= np.linspace(2, 8, FILES)[:, None]
    return (odds / odds.sum(axis=2, keepdims=True)).astype(np.float32)


def test_it_is_known_by_its_name(kappa: Metric) -> None:
    """To settings, to lists of choices and to texts; of a wrong name the choices are told."""
    assert StudyConfig(metric="kappa").metric is kappa  # type: ignore[arg-type]
    assert StudyConfig(metric=kappa).model_dump(mode="json")["metric"] == "kappa"
    assert Criterion("kappa") is kappa
    assert kappa in list(Metric)
    assert (score_text(kappa, 0.5), score_phrase(kappa, 0.5)) == ("0.5000", "0.5000")
    with pytest.raises(ValueError, match="'gamma' is not a valid Metric"):
        Metric("gamma")
    with pytest.raises(ValueError, match="registered already"):
        register(Kappa())


def test_it_is_scored_as_scikit_learn_has_it(
    kappa: Metric, labels: NDArray[np.int64], tables: NDArray[np.float32]
) -> None:
    """One table alone, and all at once on sets of photos, where losses part equal scores."""
    rows, p_true = np.arange(N), tables[:, np.arange(N), labels]
    scorer = Scorer(Candidates(labels, CLASSES, tables.argmax(2), p_true), kappa)
    inside = (np.random.default_rng(1).random((N, 5)) < 0.8).astype(np.float32)
    within = scorer.within(inside)
    for file, table in enumerate(tables):
        expected = cohen_kappa_score(labels, table.argmax(axis=1))
        assert kappa.of(Evaluation(labels, table)) == pytest.approx(expected)
        assert score(kappa, labels, table) == pytest.approx(expected)
        assert scorer.gains(file).mean() == pytest.approx(expected)
        for place, members in enumerate(inside.T > 0):
            expected = cohen_kappa_score(labels[members], table.argmax(axis=1)[members])
            assert within[file, place] == pytest.approx(expected, abs=0.5 / N)
    best = max(range(FILES), key=lambda file: scorer.score(np.full(N, file), rows))
    assert scorer.first()[0] == best


def test_it_has_intervals_tests_and_ensembles(
    kappa: Metric,
    labels: NDArray[np.int64],
    tables: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that a choice asks for: an estimate within its interval, a gain, a p value, members."""
    monkeypatch.setattr(selection_bias, "REPEATS", 16)
    found = Candidates(labels, CLASSES, tables.argmax(2), tables[:, np.arange(N), labels])
    trials = Trials(np.arange(FILES), np.arange(FILES + 1), np.arange(FILES))
    scorer = Scorer(found, kappa)
    told = bias_corrected(scorer, chooser(scorer, trials, By.MAX), scorer.first()[0])
    assert told.low is not None
    assert told.high is not None
    assert -1 < told.low < told.estimate < told.high < 1
    gained = compare(kappa, labels, [tables[-1]], [tables[0]])
    assert gained.gain_interval[0] < gained.gain < gained.gain_interval[1]
    assert gained.gain == pytest.approx(gained.score_ensemble - gained.score_single)
    assert paired_p(kappa, labels, tables[-1], tables[0]) < 0.05
    assert paired_p(kappa, labels, tables[0], tables[0]) == 1
    assert greedy(tables, labels, 3, kappa)


def test_the_jackknife_splits_a_mean_into_its_photos(
    labels: NDArray[np.int64], tables: NDArray[np.float32]
) -> None:
    """Of accuracy, said as a function of counts, each photo's share is whether it is right."""

    class Share(OfClasses):
        name = tag = "share"

        def of_counts(self, hits: Floats, photos: Floats, predicted: Floats) -> Floats:  # noqa: ARG002
            return np.asarray(hits.sum(axis=0) / photos.sum(axis=0))

    share, predicted = Share(), tables[3].argmax(axis=1)
    gained = share.gains(labels, predicted, np.zeros(N))
    np.testing.assert_allclose(gained, predicted == labels, atol=1e-12)
    np.testing.assert_allclose(share.stakes(labels), 1)
