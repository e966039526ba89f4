"""Grades, classes in an order: lists, what training lowers, and how far off answers are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error
from torch.nn import functional

from study.statistics.crossfit import score
from study.statistics.scoring import Candidates, Scorer
from tests.tiny_photos import csv_file, photo, refused
from trainers.data.label_kind import GRADES
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.metrics import Evaluation, Metric
from trainers.objective import OBJECTIVES

ORDINAL = OBJECTIVES["grade"]
MAE = Metric.MEAN_ABSOLUTE_ERROR


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
            OBJECTIVES["class"].loss(logits, truth, label_smoothing=0.1, class_weights=weights),
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
