"""Validation photos that are in train, too: found, counted, and left out of a second score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.criterion import Criterion
from study.selection.leaks import leak_warning, shared_with_train
from study.statistics.scoring import Candidates, Scorer
from study.statistics.selection_bias import bias_corrected
from study.statistics.tables import Tables
from trainers.data.manifest import Manifest, Photo, Split


class Checks:
    """A store that holds what a gate found."""

    def __init__(self, document: dict[str, Any] | None) -> None:
        self.document = document

    def check(self, _: str) -> dict[str, Any] | None:
        """Return it."""
        return self.document


class Study:
    """A study of some data."""

    manifest_digest = "digest"


def pair(first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
    """Make what the gate writes of two photos, (path, split)."""
    ends = [{"path": path, "split": split} for path, split in (first, second)]
    return {"first": ends[0], "second": ends[1], "leaks": first[1] != second[1]}


def manifest(**hashes: str) -> Manifest:
    """Make four photos to train and four to validate, with other hashes unless they are given."""
    photos = [
        Photo(f"{split}{i}", 0, split, hashes.get(f"{split}{i}", f"{split}{i}"), 1)
        for split in (Split.TRAIN, Split.VALID)
        for i in range(4)
    ]
    return Manifest(Path(), ("a",), tuple(photos))


def shared(document: dict[str, Any] | None, **hashes: str) -> tuple[list[int], bool]:
    """Say which validation photos leak."""
    found = shared_with_train(Checks(document), Study(), manifest(**hashes))  # type: ignore[arg-type]
    assert found.photos == found.mask.sum()
    return np.flatnonzero(found.mask).tolist(), found.at_least


def test_pairs_of_train_and_valid_count_once() -> None:
    """Whichever stands first; pairs within a split and those of the test photos are none."""
    pairs = [
        pair(("train0", "train"), ("valid1", "valid")),
        pair(("valid1", "valid"), ("train2", "train")),
        pair(("valid3", "valid"), ("train2", "train")),
        pair(("valid0", "valid"), ("valid2", "valid")),
        pair(("test0", "test"), ("valid2", "valid")),
    ]
    assert shared({"pairs": pairs, "n_leaks": 4}) == ([1, 3], False)
    assert shared({"pairs": pairs, "n_leaks": 5}) == ([1, 3], True)


def test_the_same_bytes_are_known_without_the_gate() -> None:
    """As of a study whose data were not looked over."""
    assert shared(None) == ([], False)
    assert shared(None, valid2="train3") == ([2], False)


def test_the_warning_counts() -> None:
    """One photo is, several are."""
    assert leak_warning(1, 9) == "1 of 9 validation photos is also in train: scores are too high"
    assert leak_warning(1200, 3000, at_least=True).startswith("at least 1,200 of 3,000 validation")


@pytest.mark.parametrize("lazily", [False, True])
def test_scores_on_some_photos_are_of_these_alone(lazily: bool) -> None:
    """The estimate too: photos that leak are all right, the others as a coin falls."""
    rng = np.random.default_rng(0)
    n, leaking = 200, np.arange(200) < 120
    labels = np.arange(n) % 2
    sure = np.where(labels[:, None] == [0, 1], 0.9, 0.1)
    guess = rng.dirichlet([1, 1], (3, n))
    tables = np.where(leaking[:, None], sure, guess).astype(np.float32)
    true = tables[:, np.arange(n), labels]
    held = Tables(lambda column: tables[column], 3) if lazily else tables
    scorer = Scorer(Candidates(labels, 2, tables.argmax(2), true, held), Criterion.AUROC)
    clean = np.flatnonzero(~leaking)
    alone = scorer.of(clean)
    rows = np.arange(len(clean))
    assert alone.score(np.zeros_like(rows), rows) == scorer.score(np.zeros_like(rows), clean)

    def first(inside: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.zeros(inside.shape[1], np.int64)

    whole, without = (bias_corrected(scorer, first, 0, judged=j) for j in (None, clean))
    assert whole.naive > 0.8
    assert without.naive == without.estimate == pytest.approx(0.5, abs=0.15)
