"""Greedy ensembles: what is chosen, what it is said to gain, and that luck is not called a gain."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.stats import norm

from storage.records import Kind
from study.selection.best import NothingToSelect
from study.selection.choosable import choosable
from study.selection.ensemble import (
    EnsembleResult,
    Member,
    cross_fitted,
    ensemble,
    greedy,
)
from study.selection.kept_weights import kept_weights
from study.statistics.crossfit import CrossFit, compare, paired_p, score
from study.statistics.folds import folds_of
from study.views.ensembles import print_ensemble
from tests.choices import could_be
from tests.lab import Lab, schedule, stage
from tests.tiny_training import card_of, network_of
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.data.manifest import Manifest, Photo, Split
from trainers.ensemble import load_ensemble
from trainers.metrics import Evaluation, Metric, of_presence

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

Tables = NDArray[np.float32]
Labels = NDArray[np.int64]
HOSTILE = r"[red]a [bold] [bold :fire: \[b]"


def tables_of(
    members: int, photos: int, classes: int = 3, seed: int = 0
) -> tuple[Tables, NDArray[np.int64]]:
    """Make random predictions that know a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, photos)
    logits = rng.normal(size=(members, photos, classes)) + np.eye(classes)[labels]
    raised = np.exp(logits)
    return (raised / raised.sum(axis=2, keepdims=True)).astype(np.float32), labels


def labelled_tables(members: int, photos: int, names: int = 4, seed: int = 0) -> Any:
    """Make random predictions of several labels that know a little: rows of photos and labels."""
    rng = np.random.default_rng(seed)
    there = rng.random((photos, names)) < np.linspace(0.2, 0.6, names)
    logits = rng.normal(size=(members, photos, names)) + 2 * there - 1
    shares = (1 / (1 + np.exp(-logits))).astype(np.float32).reshape(members, -1)
    labels = (there + 2 * np.arange(names)).ravel()
    return of_presence(np.stack([shares, shares], axis=2)), labels


def plain(metric: Metric, labels: Labels, table: Tables) -> tuple[float, float]:
    """Score a table by itself."""
    found = Evaluation(labels, table)
    return metric.of(found), Metric.LOG_LOSS.of(found)


def by_hand(tables: Tables, labels: Labels, size: int, metric: Metric) -> list[int]:
    """Choose an ensemble as the paper's words say, one candidate after the other."""
    members: list[int] = []
    nested: list[tuple[tuple[float, float], list[int]]] = []
    for _ in range(size):
        tried = []
        for candidate in range(len(tables)):
            mean = tables[[*members, candidate]].mean(axis=0)
            tried.append((metric.rank(*plain(metric, labels, mean)), candidate))
        rank, best = min(tried)
        members = [*members, best]
        nested.append((rank, members))
    return min(nested, key=lambda each: each[0])[1]


@pytest.mark.parametrize("metric", [each for each in Metric if "class" in each.kinds])
@pytest.mark.parametrize("classes", [2, 5])
def test_members_are_those_of_the_paper(metric: Metric, classes: int) -> None:
    """The vectorised choice is the one that a plain loop over candidates makes."""
    for seed in range(3):
        tables, labels = tables_of(8, 83, classes, seed)
        assert list(greedy(tables, labels, 6, metric)) == by_hand(tables, labels, 6, metric)


@pytest.mark.parametrize("metric", [each for each in Metric if "labels" in each.kinds])
def test_members_that_tell_several_labels_are_those_of_the_paper(metric: Metric) -> None:
    """The choice and the score of rows of photos and labels are those of a plain loop."""
    for seed in range(2):
        tables, labels = labelled_tables(6, 60, seed=seed)
        assert list(greedy(tables, labels, 4, metric)) == by_hand(tables, labels, 4, metric)
        assert score(metric, labels, tables[0]) == pytest.approx(
            plain(metric, labels, tables[0])[0], rel=1e-6
        )


def test_a_member_may_count_twice_and_ties_go_by_log_loss() -> None:
    """Of two right equally often the more confident is chosen; alone, it is added again."""
    labels = np.array([0, 1, 0, 1])
    right = np.where(labels[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32)
    unsure, wrong = 0.5 + (right - 0.5) / 2, 1 - right
    assert greedy(np.stack([wrong, unsure, right]), labels, 1) == (2,)
    torn = right.copy()
    torn[0] = (0.45, 0.55)
    weak = 0.5 + (right - 0.5) / 4
    # Twice the weak one would do, but a log loss is lower with the torn one, twice.
    tables = np.stack([torn, weak])
    assert list(greedy(tables, labels, 4)) == by_hand(tables, labels, 4, Metric.ACCURACY)
    assert len(set(greedy(tables, labels, 4))) < len(greedy(tables, labels, 4))


def test_blocks_choose_what_the_whole_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library too big to be looked at at once is looked at in parts, to the same end."""
    tables, labels = tables_of(9, 50)
    whole = greedy(tables, labels, 5, Metric.F1)
    monkeypatch.setattr("study.selection.ensemble.ENTRIES", 310)
    assert greedy(tables, labels, 5, Metric.F1) == whole


def test_no_member_is_misuse() -> None:
    """A size of nothing is refused in one sentence."""
    tables, labels = tables_of(2, 10)
    with pytest.raises(ValueError, match="size must be at least 1 member, got 0"):
        greedy(tables, labels, 0)


@pytest.mark.parametrize("metric", [each for each in Metric if "class" in each.kinds])
def test_scores_are_those_of_the_metrics(metric: Metric) -> None:
    """A score is that of `trainers.metrics`."""
    (table, *_), labels = tables_of(1, 40, 4)
    assert score(metric, labels, table) == pytest.approx(plain(metric, labels, table)[0], rel=1e-6)


def test_folds_part_every_class() -> None:
    """Each photo is in one fold, and no fold has more of a class than another by two."""
    labels = np.repeat([0, 1, 2], (50, 23, 4))
    folds = folds_of(labels, 10, seed=3)
    assert (np.sum(folds, axis=0) == 1).all()
    for label in range(3):
        inside = [int((labels[fold] == label).sum()) for fold in folds]
        assert max(inside) - min(inside) <= 1
    assert len(folds_of(np.array([0, 1, 0]), 10, 0)) == 2  # the rarest class has but one


def lucky(rng: np.random.Generator, members: int, photos: int, share: float) -> Any:
    """Make members that are each right on `share` of the photos, by luck of their own."""
    labels = np.arange(photos) % 2
    right = rng.random((members, photos)) < share
    # One surety for all: then votes count alike, and log loss knows nothing more.
    true = np.where(right, 0.9, 0.1)
    of_zero = np.where(labels == 0, true, 1 - true)
    return np.stack([of_zero, 1 - of_zero], axis=2).astype(np.float32), labels


def all_of(photos: int) -> NDArray[np.float32]:
    """Make the set of all photos."""
    return np.ones((photos, 1), np.float32)


def test_what_is_kept_is_each_trial_s_best_epoch_and_the_best_trials() -> None:
    """By the photos that are asked and no others; repeated schedules' files are kept anyhow."""
    tables, labels = tables_of(12, 60)
    could = could_be(tables, labels, epochs=3, most=2, anyhow=[3])
    half = np.arange(60) < 30
    sets = np.stack([half, ~half], axis=1).astype(np.float32)
    for inside, kept in zip(sets.T.astype(bool), could.kept(sets), strict=True):
        ranks = [
            Metric.ACCURACY.rank(*plain(Metric.ACCURACY, labels[inside], table[inside]))
            for table in tables
        ]
        best = [min(range(t, t + 3), key=lambda i: ranks[i]) for t in range(0, 12, 3)]
        order = sorted(best, key=lambda i: ranks[i])
        expected = [i for place, i in enumerate(order) if place < 2 or i >= 9]
        assert [column for column, _ in kept] == expected


def test_a_file_that_trials_share_is_kept_once() -> None:
    """Two trials with one best epoch leave one file, and make room for the next."""
    tables, labels = tables_of(3, 60)
    could = replace(
        could_be(tables, labels, most=2),
        columns=np.array([0, 1, 0, 1, 2]),
        starts=np.array([0, 2, 4, 5]),
    )
    (kept,) = could.kept(all_of(60))
    assert sorted(column for column, _ in kept)[1:] == [2]
    assert len(kept) == 2


@pytest.mark.long
def test_luck_flatters_the_single_file_but_not_when_cross_fitted() -> None:
    """With equals, the best one's own score is points too high; cross-fitted it is the truth."""
    rng = np.random.default_rng(0)
    naive, fair = [], []
    for _ in range(60):
        tables, labels = lucky(rng, 30, 200, 0.8)
        naive.append(score(Metric.ACCURACY, labels, tables[greedy(tables, labels, 1)[0]]))
        found = cross_fitted(could_be(tables, labels), 1, Metric.ACCURACY)
        fair.append(found.score_single)
    error = np.std(fair) / np.sqrt(len(fair))
    assert np.mean(naive) - 0.8 > 0.04
    assert abs(np.mean(fair) - 0.8) < 3 * error < 0.02


def world(rng: np.random.Generator, quality: NDArray[np.float64], photos: int) -> Any:
    """Make what trials of two epochs say: photos are easy or hard for all, the rest is luck."""
    labels = np.arange(photos) % 2
    luck = rng.normal(size=(len(quality), 1, photos)) + rng.normal(size=(len(quality), 2, photos))
    found = quality[:, None, None] + rng.normal(size=photos) + luck / np.sqrt(2)
    true = norm.cdf(found).reshape(-1, photos)
    of_zero = np.where(labels == 0, true, 1 - true)
    return np.stack([of_zero, 1 - of_zero], axis=2).astype(np.float32), labels


@pytest.mark.parametrize(
    "spread",
    [pytest.param(0.0, marks=pytest.mark.long), pytest.param(0.3, marks=pytest.mark.slow)],
)
def test_what_the_files_survived_does_not_flatter_the_ensemble(spread: float) -> None:
    """Simulated studies: files kept by all photos flatter an ensemble, files kept anew do not.

    Of two epochs of each of 100 trials the better is kept, of the trials the ten best; 4,000 new
    photos tell the truth. The interval of the gain holds it.
    """
    rng = np.random.default_rng(1)
    survived, anew, held = [], [], []
    for _ in range(60):
        quality = 1.8 + rng.normal(0, spread, 100)
        tables, labels = world(rng, quality, 60)
        could = could_be(tables, labels, epochs=2, most=10)
        kept = [column for column, _ in could.kept(all_of(60))[0]]
        members = [kept[i] for i in greedy(tables[kept], labels, 5)]
        new, truth = world(rng, quality[[column // 2 for column in (*members, kept[0])]], 4_000)
        of_many = score(Metric.ACCURACY, truth, _voices(new[:-2], members).mean(axis=0))
        survivors = could_be(tables[kept], labels)
        survived.append(cross_fitted(survivors, 5, Metric.ACCURACY).score_ensemble - of_many)
        found = cross_fitted(could, 5, Metric.ACCURACY)
        anew.append(found.score_ensemble - of_many)
        low, high = found.gain_interval
        held.append(low <= of_many - score(Metric.ACCURACY, truth, new[-1]) <= high)
    error = np.std(anew) / np.sqrt(len(anew))
    assert np.mean(survived) > 2 * error > 0.005
    assert -0.01 - 2 * error < np.mean(anew) < 2 * error
    assert np.mean(held) >= 0.92


def _voices(tables: Tables, members: Sequence[int]) -> Tables:
    """Let a member that counts twice say the same twice."""
    return tables[::2][[members.index(member) for member in members]]


def test_a_better_ensemble_gains_when_cross_fitted() -> None:
    """Members with errors of their own correct each other, and the interval says it is no luck."""
    tables, labels = lucky(np.random.default_rng(1), 15, 300, 0.8)
    found = cross_fitted(could_be(tables, labels), 7, Metric.ACCURACY)
    assert found.gain == pytest.approx(found.score_ensemble - found.score_single)
    assert 0 < found.gain_interval[0] < found.gain < found.gain_interval[1]


def test_copies_gain_nothing() -> None:
    """Where all members say the same, the gain is nothing at all and not a rounding error."""
    tables, labels = tables_of(1, 60)
    found = cross_fitted(could_be(np.repeat(tables, 5, axis=0), labels), 4, Metric.ACCURACY)
    assert found.gain == 0
    assert found.score_single == pytest.approx(score(Metric.ACCURACY, labels, tables[0]))


@pytest.mark.parametrize(
    "metric", [m for m in Metric if "class" in m.kinds and m is not Metric.LOG_LOSS]
)
def test_no_difference_is_no_certainty(metric: Metric) -> None:
    """Where 60 photos show no gain, new ones may: the interval is some photos wide."""
    tables, labels = tables_of(1, 60)
    low, high = compare(metric, labels, [tables[0]], [tables[0]]).gain_interval
    assert -0.1 < low < -1 / 60
    assert high == -low


def test_a_gain_of_loss_is_positive() -> None:
    """Where less is better, the gain still says how much better the ensemble is."""
    tables, labels = tables_of(12, 200)
    could = could_be(tables, labels, metric=Metric.LOG_LOSS)
    found = cross_fitted(could, 6, Metric.LOG_LOSS)
    assert found.score_ensemble < found.score_single
    assert found.gain == pytest.approx(found.score_single - found.score_ensemble)
    assert found.gain_interval[0] > 0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Over many draws of photos, the true gain of one table over another is in 95 % of them."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(200):
        (better, worse), labels = lucky(rng, 2, 150, 0.8)
        worse = np.where((rng.random(150) < 0.25)[:, None], 1 - worse, worse)
        low, high = compare(Metric.ACCURACY, labels, [better], [worse]).gain_interval
        held += low <= 0.8 - (0.8 * 0.75 + 0.2 * 0.25) <= high
    assert 180 <= held <= 199


def test_the_paired_test_errs_as_often_as_it_says() -> None:
    """Of equals, at most one in twenty is called better or worse, and some are."""
    rng, called = np.random.default_rng(3), 0
    for _ in range(200):
        (first, second), labels = lucky(rng, 2, 200, 0.8)
        called += paired_p(Metric.ACCURACY, labels, first, second) < 0.05
    assert 0 < called <= 16


def test_an_ensemble_of_a_study(finished: Lab) -> None:
    """Members are files of the study, whole, each once; scores are those of their mean."""
    found = ensemble(storage=finished.url, size=4)
    manifest = finished.manifest
    assert manifest is not None
    labels = manifest.labels(Split.VALID)
    total = np.zeros((len(labels), 3))
    with finished.reading() as (store, study, vault):
        kept = {c.path: c for c in store.checkpoints(study.id) if c.kind is Kind.BEST}
        for member in found.members:
            file = kept[Path(member.file).name]
            assert (member.stage_run, member.epoch) == (file.stage_run_id, file.epoch)
            assert vault.verify(Path(member.file).name, member.sha256)
            stored = store.predictions(member.stage_run, member.epoch, labels).probabilities
            assert stored is not None
            total += member.count * stored
        best = store.ranking(study)[0].trial
        paths = {r.checkpoint.path for r in store.ranking(study) if r.checkpoint}
    assert len({member.file for member in found.members}) == len(found.members)
    assert 1 <= sum(member.count for member in found.members) <= 4
    assert found.candidates == len(paths)
    assert found.score == (total.argmax(axis=1) == labels).mean()
    assert found.errors == (total.argmax(axis=1) != labels).sum()
    assert (found.single_trial, found.single_score) == (best.number, best.score)
    assert found.score >= found.single_score


@pytest.mark.long
def test_what_all_photos_would_keep_is_what_is_kept(make_lab: Callable[..., Lab]) -> None:
    """After retention deleted most files and schedules were repeated, the rule is the search's.

    The deleted ones' epochs are among those that fewer photos can choose from.
    """
    script = [schedule(stage(size, epochs=2)) for size in range(32, 32 + 16 * 8, 16)]
    lab = make_lab(*script, keep=3, repeats=2, finalists=2)
    lab.search()
    labels = lab.trainer.labels
    with lab.reading() as (store, study, vault):
        kept, _ = kept_weights(store, vault, study)
        could = choosable(store, study, _labelled(labels), kept)
        (found,) = could.kept(all_of(len(labels)))
        assert found == [(file.stage_run_id, file.epoch) for _, file in kept]
        assert store.deletions(study.id)
        assert len(could.epochs) == sum(len(store.epochs(r.id)) for r in store.stage_runs(study.id))
        assert {(d.stage_run_id, d.epoch) for d in store.deletions(study.id)} <= set(could.epochs)


def _labelled(labels: Labels) -> Manifest:
    """Make a manifest whose validation photos have these labels, each photo alone."""
    photos = (
        Photo(f"{at}.png", int(label), Split.VALID, f"{at:064x}", 1)
        for at, label in enumerate(labels)
    )
    return Manifest(Path(), ("a", "b", "c"), tuple(photos))


def test_of_many_epochs_each_run_s_best_are_read(
    finished: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few there is time for, no trial is left out for another's second best."""
    assert finished.manifest is not None
    with finished.reading() as (store, study, vault):
        kept, _ = kept_weights(store, vault, study)
        runs = {run.id for run in store.stage_runs(study.id) if store.epochs(run.id)}
        monkeypatch.setattr("study.selection.choosable.EPOCHS", len(runs) - 1)
        could = choosable(store, study, finished.manifest, kept)
    assert len({run for run, _ in could.epochs}) == len(could.epochs) == len(runs) - 1


def test_what_is_damaged_is_no_member(finished: Lab) -> None:
    """A changed file is named and left out; with less than two whole ones there is no ensemble."""
    with finished.reading() as (store, study, vault):
        first, *others = dict.fromkeys(
            r.checkpoint.path for r in store.ranking(study) if r.checkpoint
        )
        vault.path(first).write_bytes(b"changed")
        found = ensemble(storage=finished.url, size=3)
        assert found.damaged == (first,)
        assert first not in {Path(member.file).name for member in found.members}
        for path in others[1:]:
            vault.path(path).unlink()
    with pytest.raises(NothingToSelect, match="at least 2 weights files, study 'lab' has 1"):
        ensemble(storage=finished.url)


def test_without_all_probabilities_there_is_no_ensemble(
    make_lab: Callable[..., Lab], photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two probabilities a photo were kept, an ensemble is refused in a sentence."""
    monkeypatch.setattr("storage.predictions.FULL_LIMIT", 10)
    lab = make_lab(schedule(stage(64)), schedule(stage(96)), manifest=photos)
    lab.search()
    with pytest.raises(NothingToSelect, match="probabilities of all classes are needed"):
        ensemble(storage=lab.url)


def test_files_predict_together(tmp_path: Path) -> None:
    """A loaded ensemble gives the mean of its files' probabilities, weighted by their counts."""
    for seed in range(2):
        save_weights(tmp_path / f"{seed}.st", network_of(seed).state_dict(), card_of())
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(3)]
    first, second = (load(tmp_path / f"{seed}.st").predict(photos) for seed in range(2))
    together = load_ensemble([(tmp_path / "0.st", 3), (tmp_path / "1.st", 1)])
    found = together.predict(iter(photos))
    assert together.classes == card_of().classes
    assert found.dtype == np.float32
    assert np.allclose(found, (3 * first + second) / 4, atol=1e-7)
    assert not np.allclose(found, first, atol=1e-4)


def test_each_member_is_judged_by_its_own_rule(tmp_path: Path) -> None:
    """One member's mirror images, the other's photo alone: what each was validated by."""
    for seed, tta in enumerate((True, False)):
        save_weights(tmp_path / f"{seed}.st", network_of(seed).state_dict(), card_of(tta=tta))
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(3)]
    first, second = (load(tmp_path / f"{seed}.st") for seed in range(2))
    expected = first.predict(photos, augment=True) + second.predict(photos, augment=False)
    found = load_ensemble([(tmp_path / "0.st", 1), (tmp_path / "1.st", 1)]).predict(photos)
    assert np.allclose(found, expected / 2, atol=1e-7)


def test_files_of_other_classes_do_not_predict_together(tmp_path: Path) -> None:
    """Classes that differ, and counts of nothing, are refused in a sentence."""
    save_weights(tmp_path / "a.st", network_of().state_dict(), card_of())
    save_weights(tmp_path / "b.st", network_of().state_dict(), card_of(classes=("x", "y")))
    with pytest.raises(ValueError, match=r"same classes, but .*roses.* and .*'x', 'y'"):
        load_ensemble([(tmp_path / "a.st", 1), (tmp_path / "b.st", 1)])
    for none in ([], [(tmp_path / "a.st", 0)]):
        with pytest.raises(ValueError, match="count at least once"):
            load_ensemble(none)


@pytest.mark.parametrize(("low", "luck"), [(-0.01, True), (0.01, False)])
def test_what_is_printed_is_literal(low: float, luck: bool) -> None:
    """Hostile names are shown as they are, and a gain that may be luck is called so."""
    text = io.StringIO()
    member = Member(7, 3, 1, 2, f"runs/{HOSTILE}.safetensors", "f" * 64, 2)
    cross = CrossFit(0.9, 0.875, 0.025, (low, 0.06))
    found = EnsembleResult(
        *(f"[/]{HOSTILE}", Metric.ACCURACY, 3, (member,), 0.92, 0.3, 8, 100),
        *(7, 0.91, 9, cross, 5, (HOSTILE,)),
    )
    print_ensemble(Console(file=text, width=200, emoji=False), found)
    assert text.getvalue().count(HOSTILE) == 3
    assert "ensemble 90.0 %, best file 87.5 %; gain +2.5" in text.getvalue()
    assert f"(95 % CI {'-' if luck else '+'}1.0 to +6.0)" in text.getvalue()
    assert ("may be chance" in text.getvalue()) is luck
