"""Classes that come in other shares than in training: `predict --prior`."""

import numpy as np
import pytest

from trainers.decision import Decision
from trainers.prior import label_shares, named_shares, reweighted, reweighted_labels

CLASSES = ("day", "dusk", "night")
TRAINED = (0.5, 0.25, 0.25)


def test_reweighted_probabilities_are_those_of_the_new_shares() -> None:
    """A classifier that is right about a world with equal shares becomes so about 1 in 10."""
    rng = np.random.default_rng(0)
    labels = (rng.random(200_000) < 0.1).astype(int)
    seen = rng.normal(labels * 1.5, 1.0)  # one number of a photo, by which classes overlap
    odds = np.exp(1.5 * seen - 1.5**2 / 2)
    plain = np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)
    found = reweighted(plain, (0.5, 0.5), (0.9, 0.1))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (found[:, 1] >= low) & (found[:, 1] < high)
        assert labels[inside].mean() == pytest.approx(found[inside, 1].mean(), abs=0.02)
    rule = Decision.plain(2)
    assert (rule.answers(found) != labels).mean() < (rule.answers(plain) != labels).mean() - 0.05


def test_reweighted_labels_are_those_of_two_classes_each() -> None:
    """A label with its share, and without; shares as in training and sure answers stay."""
    table = np.random.default_rng(2).random((50, 3)).astype(np.float32)
    table[0], table[1] = 0, 1
    found = reweighted_labels(table, (0.5, 0.2, 1.0), (0.1, 0.2, 1.0))
    pairs = np.stack([1 - table[:, 0], table[:, 0]], axis=1).astype(float)
    assert found[:, 0] == pytest.approx(reweighted(pairs, (0.5, 0.5), (0.9, 0.1))[:, 1])
    np.testing.assert_array_equal(found[:, 1:], table[:, 1:])
    np.testing.assert_array_equal(found[:2], table[:2])


def test_each_label_has_a_share_of_its_own() -> None:
    """They need not add up; labels that are not named keep theirs, and one that all have, too."""
    trained = (0.5, 0.25, 1.0)
    assert label_shares(["dusk=0.9", "day = 0.8"], CLASSES, trained) == (0.8, 0.9, 1.0)
    with pytest.raises(ValueError, match="prior must leave 'night' away: all photos had it"):
        label_shares(["night=0.5"], CLASSES, trained)
    for wrong in ("noon=0.1", "day", "day=0", "day=1", "day=nan"):
        with pytest.raises(ValueError, match="prior"):
            label_shares([wrong], CLASSES, trained)


def test_the_shares_of_training_change_nothing() -> None:
    """Whatever they are."""
    table = np.random.default_rng(1).dirichlet([1, 1, 1], 50)
    np.testing.assert_allclose(reweighted(table, TRAINED, TRAINED), table)


def test_classes_that_are_not_named_divide_the_rest_as_in_training() -> None:
    """Two of three are left as they were to each other."""
    assert named_shares(["night=0.7"], CLASSES, TRAINED) == pytest.approx((0.2, 0.1, 0.7))
    every = ["day=0.2", "dusk = 0.2", "night=0.6"]
    assert named_shares(every, CLASSES, TRAINED) == pytest.approx((0.2, 0.2, 0.6))


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        (["noon=0.1"], "one of day, dusk, night, got 'noon=0.1'"),
        (["night"], "must be CLASS=SHARE"),
        (["night=much"], "between 0 and 1"),
        (["night=nan"], "between 0 and 1"),
        (["night=1"], "between 0 and 1"),
        (["night=0.6", "day=0.4"], "add up to 1 over all classes, got 1 for night, day"),
        (["night=0.6", "day=0.1", "dusk=0.1"], "got 0.8 for night, day, dusk"),
    ],
)
def test_other_shares_are_refused_in_a_sentence(shares: list[str], says: str) -> None:
    """It names what was given, and what is expected."""
    with pytest.raises(ValueError, match="prior") as refused:
        named_shares(shares, CLASSES, TRAINED)
    assert says in str(refused.value)
