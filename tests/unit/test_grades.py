"""Grades, classes in an order: lists, what training lowers, and how far off answers are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, mean_absolute_error
from torch.nn import functional

from study.statistics.crossfit import score
from study.statistics.scoring import Candidates, Scorer
from tests.tiny_photos import csv_file, photo, refused
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.labels import CROSS_ENTROPY, GRADES
from trainers.metrics import Evaluation, Metric

ORDINAL = GRADES.objective
MAE, KAPPA = Metric.MEAN_ABSOLUTE_ERROR, Metric.QUADRATIC_KAPPA


def listed(root: Path, texts: list[str], column: str = "grade") -> Path:
    """Write photos and a list of them."""
    for index in range(len(texts)):
        photo(root / f"{index}.png", index)
    rows = [f"{index}.png,{text}" for index, text in enumerate(texts)]
    return csv_file(root, "\n".join([f"path,{column}", *rows]))


def test_grades_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """10 comes after 9, the manifest keeps what they are, and their digest is not the classes'."""
    texts = ["9", "10 worst", "-1", "2.5: mild"] * 4
    made = build_manifest(listed(tmp_path, texts))
    assert made.kind is GRADES
    assert made.classes == ("-1", "2.5: mild", "9", "10 worst")
    assert [made.label_text(each) for each in made.photos if each.path == "5.png"] == ["10 worst"]
    again = Manifest.from_json(made.to_json(), made.root)
    assert (again.kind, again.photos, again.digest) == (GRADES, made.photos, made.digest)
    assert made.digest != build_manifest(listed(tmp_path, texts, "label")).digest
    assert sum(sum(made.counts(split)) for split in Split) == 16


def test_grades_without_an_order_are_refused(tmp_path: Path) -> None:
    """A name without a number, and two of one number, in a sentence each."""
    assert "must begin with the number that orders them" in refused(listed(tmp_path, ["1", "bad"]))
    assert "got '1.5.2'" in refused(listed(tmp_path, ["1", "1.5.2"]))
    assert "got '01' and '1'" in refused(listed(tmp_path, ["1", "01"]))
    both = "path,label,grade\n0.png,a,1\n"
    assert "must be path,label" in refused(csv_file(tmp_path, both))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_loss_is_that_of_questions_whether_a_grade_is_above(count: int) -> None:
    """The sum of scikit-learn's kind of binary losses; of two grades, the cross-entropy."""
    torch.manual_seed(0)
    logits, truth = torch.randn(40, count), torch.randint(0, count, (40,))
    shares = logits.double().softmax(1)
    expected = 0.0
    for above in range(count - 1):
        yes = shares[:, above + 1 :].sum(1)
        expected += functional.binary_cross_entropy(yes, (truth > above).double()).item()
    assert ORDINAL.loss(logits, truth).item() == pytest.approx(expected, rel=1e-5)
    soft = functional.one_hot(truth, count).float()
    assert ORDINAL.loss(logits, soft).item() == pytest.approx(expected, rel=1e-5)
    plain = functional.cross_entropy(logits, truth)
    assert ORDINAL.validation_loss(logits, truth) == plain
    if count == 2:
        weights = torch.tensor([0.5, 1.5])
        torch.testing.assert_close(
            ORDINAL.loss(logits, truth, label_smoothing=0.1, class_weights=weights),
            CROSS_ENTROPY.loss(logits, truth, label_smoothing=0.1, class_weights=weights),
        )


def test_a_grade_that_is_far_off_costs_more() -> None:
    """Cross-entropy asks how probable the truth was alone; no logits give an endless loss."""
    near, far = torch.tensor([[3.0, 4.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0, 4.0]])
    truth = torch.tensor([0])
    assert functional.cross_entropy(near, truth) == functional.cross_entropy(far, truth)
    assert ORDINAL.loss(near, truth) < ORDINAL.loss(far, truth)
    extreme = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    found = ORDINAL.loss(extreme, torch.tensor([1]))
    found.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(found.item())
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_the_mean_absolute_error_is_that_of_scikit_learn() -> None:
    """By one evaluation, by tables and by a scorer, whose interval holds it and never ends at 0."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    tables = rng.dirichlet(np.ones(4), (3, 200)).astype(np.float32)
    tables[:, np.arange(200), labels] += 0.3
    p_true = tables[:, np.arange(200), labels]
    scorer = Scorer(Candidates(labels, 4, tables.argmax(2), p_true), MAE)
    within = scorer.within(np.ones((200, 1), np.float32))[:, 0]
    for file, table in enumerate(tables):
        expected = mean_absolute_error(labels, table.argmax(1))
        assert MAE.of(Evaluation(labels, table)) == pytest.approx(expected)
        assert score(MAE, labels, table) == pytest.approx(expected)
        assert -scorer.gains(file).mean() == pytest.approx(expected)
        assert -within[file] == pytest.approx(expected, abs=1e-3)
        low, high = scorer.limits(expected, scorer.evidence(np.full(200, file)))
        assert 0 < low < expected < high < 3
    right = Scorer(Candidates(labels, 4, labels[None], np.ones((1, 200))), MAE)
    low, high = right.limits(0.0, right.evidence(np.zeros(200, np.int64)))
    assert low == pytest.approx(0, abs=1e-9)
    assert 3 / 200 < high < 0.1


def drawn(rng: np.random.Generator, n: int, files: int) -> tuple[Candidates, NDArray[np.float32]]:
    """Draw grades of 5 and what files say of them, the later the better; return their tables."""
    labels = rng.integers(0, 5, n)
    near = -np.abs(np.arange(5) - labels[:, None] - rng.normal(0, 0.8, (files, n, 1)))
    odds = np.exp(near * np.linspace(1, 3, files)[:, None, None])
    tables = (odds / odds.sum(axis=2, keepdims=True)).astype(np.float32)
    return Candidates(labels, 5, tables.argmax(2), tables[:, np.arange(n), labels]), tables


def test_quadratic_kappa_is_that_of_scikit_learn() -> None:
    """By one evaluation, by tables, by a scorer on all photos and on sets of them."""
    rng = np.random.default_rng(0)
    candidates, tables = drawn(rng, 200, 4)
    labels, scorer = candidates.labels, Scorer(candidates, KAPPA)
    inside = (rng.random((200, 3)) < 0.7).astype(np.float32)
    within, every = scorer.within(inside), np.arange(200)
    for file, table in enumerate(tables):
        expected = cohen_kappa_score(labels, table.argmax(1), weights="quadratic")
        assert KAPPA.of(Evaluation(labels, table)) == pytest.approx(expected)
        assert score(KAPPA, labels, table) == pytest.approx(expected)
        assert scorer.score(np.full(200, file), every) == pytest.approx(expected)
        assert scorer.gains(file).mean() == pytest.approx(expected)
        for place, mine in enumerate(inside.T > 0):
            expected = cohen_kappa_score(
                labels[mine], table.argmax(1)[mine], weights="quadratic")  # fmt: skip
            assert within[file, place] == pytest.approx(expected, abs=1e-3)  # ties by loss
    best = max(range(4), key=lambda file: scorer.score(np.full(200, file), every))
    assert scorer.first()[0] == best
    one = np.zeros((20, 5), np.float32)
    one[:, 3] = 1
    assert KAPPA.of(Evaluation(np.arange(20) % 5, one)) == 0  # a constant answer
    assert KAPPA.of(Evaluation(np.full(20, 3), one)) == 0  # says nothing


@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize("shares", [(0.2,) * 5, (0.9, 0.04, 0.03, 0.02, 0.01)], ids=str)
def test_the_interval_of_kappa_holds_the_truth(n: int, shares: tuple[float, ...]) -> None:
    """In at least 92 of 100 sets, one answer in 30 at random; if all are right, it is below 1."""
    rng = np.random.default_rng(1)
    grades = rng.choice(5, 100_000, p=shares)
    near = (grades + rng.normal(0, 0.4, 100_000)).round().clip(0, 4).astype(np.int64)
    said = np.where(rng.random(100_000) < 1 / 30, rng.integers(0, 5, 100_000), near)
    whole = Candidates(grades, 5, said[None], np.full((1, 100_000), 0.5))
    truth = Scorer(whole, KAPPA).score(np.zeros(100_000, np.int64), np.arange(100_000))
    held = 0
    for _ in range(300):
        mine = whole.of(rng.integers(0, 100_000, n))
        scorer, first = Scorer(mine, KAPPA), np.zeros(n, np.int64)
        low, high = scorer.limits(
            scorer.score(first, np.arange(n)), scorer.evidence(first))  # fmt: skip
        held += low <= truth <= high
    assert held / 300 >= 0.92
    labels = np.arange(n) % 5
    right = Scorer(Candidates(labels, 5, labels[None], np.ones((1, n))), KAPPA)
    low, high = right.limits(1.0, right.evidence(np.zeros(n, np.int64)))
    assert (low < 1 - 3 / n, high) == (True, 1.0)
    stakes = KAPPA.stakes(labels)
    assert stakes.min() > 0
    assert stakes[0] == pytest.approx(stakes[4])  # the ends cost more than what is between them
    assert stakes[0] > stakes[2]
