"""Several labels a photo: lists, splits, rows, store, metrics, objectives; by scikit-learn's."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as reference
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from storage.predictions import Form, decode, encode, shorten
from study.datasets.cleaned_csv import write_list
from study.selection.several_labels import best_thresholds, judge_labels
from study.statistics.groups import design_effect
from study.statistics.scoring import Candidates, Scorer
from tests.tiny_photos import csv_file, photo, refused
from tests.tiny_training import card_of
from trainers.card import WeightsCard
from trainers.data.folds import in_folds
from trainers.data.manifest import OF_KIND, Manifest, Split, build_manifest
from trainers.errors import DatasetError, NotOurWeights
from trainers.labels import KINDS, SEVERAL
from trainers.metrics import Evaluation, Metric
from trainers.probe import fit_probe
from trainers.schedule import Balance, Loss

LABELS = ("a", "b", "c")
BCE = SEVERAL.objective


def listed(root: Path, texts: list[str], header: str = "path,labels") -> Path:
    """Write photos and a list of them."""
    for index in range(len(texts)):
        photo(root / f"{index}.png", index)
    rows = [f"{index}.png,{text}" for index, text in enumerate(texts)]
    return csv_file(root, "\n".join([header, *rows]))


def many(root: Path, count: int = 60) -> Path:
    """Write a list of photos, a third of which have each label."""
    rng = np.random.default_rng(0)
    texts = [";".join(n for n in LABELS if rng.random() < 0.3) for _ in range(count)]
    return listed(root, texts)


def evaluated(
    n: int = 50, seed: int = 0
) -> tuple[Evaluation, NDArray[np.bool_], NDArray[np.float32]]:
    """Return an evaluation, and the truth and probabilities (n, 3) that it is made of."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3)) < (0.5, 0.3, 0.2)
    logits = torch.from_numpy(rng.normal(2 * truth - 1.0, 1.5).astype(np.float32))
    found = BCE.evaluation(logits, torch.from_numpy(truth.astype(np.float32)))
    return found, truth, logits.sigmoid().numpy()


def test_a_list_of_labels_and_one_of_columns_say_the_same(tmp_path: Path) -> None:
    """`a;b` in any order and 0/1 columns give one manifest, which JSON keeps with its digest."""
    texts = ["b;a", " a ; b;a", "c", "", "a"] * 6
    one = build_manifest(listed(tmp_path / "one", texts))
    rows = [",".join(str(int(n in text)) for n in LABELS) for text in texts]
    other = build_manifest(listed(tmp_path / "other", rows, "path,a,b,c"))
    assert one.digest == other.digest
    assert [one.label_text(p) for p in one.photos[:1]] == ["a;b"]
    assert sum(not one.label_text(p) for p in one.photos) == 6
    again = Manifest.from_json(one.to_json(), one.root)
    assert (again, again.digest, again.kind) == (one, one.digest, SEVERAL)
    assert json.loads(one.to_json())["version"] == OF_KIND
    write_list(one, tmp_path / "one" / "again.csv")
    assert build_manifest(tmp_path / "one" / "again.csv").digest == one.digest


def test_groups_of_a_list_of_labels_are_kept(tmp_path: Path) -> None:
    """JSON keeps the groups of photos with several labels, and no split parts them."""
    texts = [f"{LABELS[index % 3]},g{index // 2}" for index in range(30)]
    manifest = build_manifest(listed(tmp_path, texts, "path,labels,group"))
    again = Manifest.from_json(manifest.to_json(), manifest.root)
    assert (again, again.digest) == (manifest, manifest.digest)
    assert (again.n_groups(), again.parted) == (15, ())
    valid = again.photo_groups(Split.VALID)
    assert valid is not None
    assert Counter(valid.tolist()) == dict.fromkeys(range(again.n_groups(Split.VALID) or 0), 2)


@pytest.mark.parametrize(
    "wrong", [{"unknown": 1}, {"folds": 1}, {"thresholds": [0.5]}, {"format_version": "1"}]
)
def test_a_card_that_labels_cannot_have_is_refused(wrong: dict[str, Any]) -> None:
    """Weights of several labels know thresholds for each, shares of their own, and folds."""
    more = {"thresholds": (0.4, 0.6), "unknown": 0.05, "prior": (0.9, 1.0), "folds": 3}
    card = asdict(card_of(kind="labels", format_version="2", **more))
    read = WeightsCard.from_json(json.dumps(card))
    assert (read.thresholds, read.unknown, read.prior, read.folds) == tuple(more.values())
    with pytest.raises(NotOurWeights):
        WeightsCard.from_json(json.dumps(card | wrong))


@pytest.mark.parametrize(
    ("header", "row", "why"),
    [
        ("path,a,b", "0.png,1,2", "must have 0 or 1 under 'b', got '2'"),
        ("path,label,labels", "0.png,a,b", "the header"),
        ("path,labels,a", "0.png,a,1", "the header"),
        ("path,a;b,c", "0.png,1,0", "must have no ';'"),
        ("path,labels", '0.png,"a\x01;b"', "control characters"),
    ],
)
def test_a_wrong_list_is_refused_in_a_sentence(
    tmp_path: Path, header: str, row: str, why: str
) -> None:
    """What is neither labels nor 0 and 1 is told by row or header."""
    photo(tmp_path / "0.png", 0)
    assert why in refused(csv_file(tmp_path, f"{header}\n{row}\n"))


def test_splits_are_stratified_by_label(tmp_path: Path) -> None:
    """Each label's photos are split about 60/20/20, and so are all."""
    manifest = build_manifest(many(tmp_path, 100))
    for label in range(3):
        counts = [manifest.counts(split)[label] for split in Split]
        assert abs(counts[1] / sum(counts) - 0.2) < 0.08
        assert abs(counts[2] / sum(counts) - 0.2) < 0.08
    sizes = Counter(p.split for p in manifest.photos)
    assert 15 <= sizes[Split.VALID] <= 25
    assert build_manifest(tmp_path / "photos.csv").digest == manifest.digest


def test_folds_are_stratified_by_label(tmp_path: Path) -> None:
    """Folds differ by a photo in size, and hardly in how many have each label."""
    dealt = in_folds(build_manifest(many(tmp_path, 100)), 4, seed=0)
    inside = dealt.of_split(Split.VALID)
    sizes = np.bincount(dealt.fold_of)
    assert sizes.max() - sizes.min() <= 2
    for label in range(3):
        counts = np.bincount([p.fold or 0 for p in inside if p.label >> label & 1], minlength=4)
        assert counts.max() - counts.min() <= 2
    assert (dealt.fold_of_answers == np.repeat(dealt.fold_of, 3)).all()
    rare = listed(tmp_path / "rare", ["a;b", "b;c", "b", "a", "c", "a;c"] * 5 + ["d;a"] * 4)
    with pytest.raises(DatasetError, match="class 'd' must have at least 5 photos"):
        in_folds(build_manifest(rare), 5, seed=0)


def test_answers_are_numbered_photo_after_photo(tmp_path: Path) -> None:
    """Labels, targets, counts and groups tell the same of the same photos."""
    manifest = build_manifest(many(tmp_path))
    targets, answers = manifest.targets(Split.VALID), manifest.labels(Split.VALID)
    assert (answers % 2 == targets.ravel()).all()
    assert (answers // 2 == np.tile(np.arange(3), len(targets))).all()
    assert manifest.counts(Split.VALID) == tuple(targets.sum(axis=0))
    groups = manifest.groups(Split.VALID)
    assert groups is not None
    assert (groups == np.repeat(np.arange(len(targets)), 3)).all()
    assert manifest.n_groups(Split.VALID) is None


def test_metrics_are_scikit_learns() -> None:
    """F1s, log loss, Hamming accuracy, areas and average precisions are those of the reference."""
    found, truth, shares = evaluated()
    said = shares >= 0.5
    expected = {
        "macro_f1": reference.f1_score(truth, said, average="macro"),
        "micro_f1": reference.f1_score(truth, said, average="micro"),
        "accuracy": 1 - reference.hamming_loss(truth, said),
        "log_loss": np.mean([reference.log_loss(truth[:, i], shares[:, i]) for i in range(3)]),
        "balanced_accuracy": np.mean(
            [reference.balanced_accuracy_score(truth[:, i], said[:, i]) for i in range(3)]
        ),
    }
    for name, value in expected.items():
        assert Metric(name).of(found) == pytest.approx(value, abs=1e-6)
    kept = decode(*encode(found), found.labels)
    judged = judge_labels(
        found.labels, kept.predicted, kept.true_probability, 3, np.repeat(np.arange(50), 3)
    )
    kept_shares = shares.astype(np.float16).astype(float)
    for label, numbers in enumerate(judged.each):
        mine = truth[:, label], kept_shares[:, label]
        assert numbers.auroc == pytest.approx(reference.roc_auc_score(*mine), abs=2e-3)
        whole = reference.average_precision_score(*mine)
        assert numbers.average_precision == pytest.approx(whole, abs=2e-3)
    assert judged.macro_f1 == pytest.approx(expected["macro_f1"])
    assert judged.micro_f1 == pytest.approx(expected["micro_f1"])
    assert judged.whole == pytest.approx(reference.accuracy_score(truth, said))


def test_thresholds_are_the_best_there_are() -> None:
    """No other threshold has a greater F1, and labels that nothing has keep a half."""
    _, truth, shares = evaluated(seed=3)
    table = shares.astype(float)
    for label, cut in enumerate(best_thresholds(truth, table)):
        mine = table[:, label]
        best = max(reference.f1_score(truth[:, label], mine >= at) for at in mine)
        assert reference.f1_score(truth[:, label], mine >= cut) == pytest.approx(best)
    assert best_thresholds(np.zeros((4, 1), bool), table[:4, :1]) == 0.5


def test_cross_fitted_thresholds_of_noise_do_not_flatter() -> None:
    """Where probabilities say nothing, thresholds chosen by the same photos would seem to help."""
    gained, flattered = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.random((40, 3)) < 0.5
        noise = torch.from_numpy(rng.normal(0, 1, (40, 3)).astype(np.float32))
        found = BCE.evaluation(noise, torch.from_numpy(truth.astype(np.float32)))
        kept = decode(*encode(found), found.labels)
        judged = judge_labels(
            found.labels, kept.predicted, kept.true_probability, 3, np.repeat(np.arange(40), 3)
        )
        said = noise.sigmoid().numpy() >= [each.threshold for each in judged.each]
        flattered.append(reference.f1_score(truth, said, average="macro"))
        gained.append(judged.own_macro_f1)
    assert np.mean(gained) < np.mean(flattered) - 0.02


def test_the_store_keeps_rows_in_both_forms() -> None:
    """Full and compact forms give the answers back, numbered on from label to label."""
    found, _, _ = evaluated()
    form, blob = encode(found)
    full = decode(form, blob, found.labels)
    short = decode(Form.COMPACT, shorten(blob, found.labels), found.labels)
    for kept in (full, short):
        assert (kept.predicted == found.predicted).all()
        assert kept.true_probability == pytest.approx(np.exp(-found.losses()), abs=1e-3)
    rebuilt, args = found.__reduce__()
    assert (rebuilt(*args).predicted == found.predicted).all()


def test_candidates_score_as_evaluations_do() -> None:
    """The scorer's macro F1, its ranking over sets of photos and its interval fit the metric's."""
    every = [evaluated(seed=seed)[0] for seed in (0, 0)]
    labels, groups = every[0].labels, np.repeat(np.arange(50), 3)
    predicted = np.stack([each.predicted for each in every])
    sure = np.stack([np.exp(-each.losses()) for each in every])
    scorer = Scorer(Candidates(labels, 6, predicted, sure, None, groups, 3), Metric("macro_f1"))
    columns, rows = np.zeros(150, np.int64), np.arange(150)
    score = Metric("macro_f1").of(every[0])
    assert scorer.score(columns, rows) == pytest.approx(score)
    assert scorer.within(np.ones((150, 1), np.float32))[0, 0] == pytest.approx(score, abs=1e-3)
    effect = design_effect(scorer.gains(0), groups)
    low, high = scorer.limits(score, scorer.evidence(columns), effect)
    assert low < score < high
    assert scorer.candidates.n_independent == 50


def test_logits_of_two_views_have_the_mean_probability() -> None:
    """The sigmoid of what `mean` gives is the mean of theirs, for extreme logits, too."""
    one, other = torch.tensor([[0.3, -40.0, 2.0]]), torch.tensor([[1.0, -38.0, -30.0]])
    mean = (one.sigmoid() + other.sigmoid()) / 2
    assert torch.allclose(BCE.mean(one, other).sigmoid(), mean, atol=1e-7)
    three = (one.sigmoid() + 2 * other.sigmoid()) / 3
    assert torch.allclose(BCE.mean(one, other, other).sigmoid(), three, atol=1e-7)


def test_the_loss_is_binary_cross_entropy_of_soft_labels() -> None:
    """Mixed labels count by their shares, and smoothing draws them towards a half."""
    logits, truth = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.7, 0.0]])
    plain = nn.BCEWithLogitsLoss()
    assert BCE.loss(logits, truth) == plain(logits, truth)
    smoothed = BCE.loss(logits, truth, label_smoothing=0.1)
    assert smoothed == plain(logits, torch.tensor([[0.68, 0.05]]))


def test_the_asymmetric_loss_is_that_of_timm() -> None:
    """Of hard and of mixed labels, its gradient, too; classes and grades have none."""
    torch.manual_seed(0)
    logits, truth = torch.randn(30, 3, requires_grad=True), torch.rand(30, 3)
    truth[:15] = truth[:15].round()
    mine = BCE.lowering(Loss.ASYMMETRIC).loss(logits, truth, label_smoothing=0.1)
    smoothed = truth * 0.9 + 0.05
    theirs = AsymmetricLossMultiLabel(reduction="none")(logits, smoothed).mean()
    torch.testing.assert_close(mine, theirs)
    slopes = [torch.autograd.grad(each, logits)[0] for each in (mine, theirs)]
    torch.testing.assert_close(*slopes)
    assert BCE.lowering(Loss.ENTROPY) is BCE
    for kind in ("class", "grade"):
        with pytest.raises(ValueError, match="loss must be entropy but for several labels"):
            KINDS[kind].objective.lowering(Loss.ASYMMETRIC)


def test_the_probe_is_a_logistic_regression_for_each_label() -> None:
    """On features that tell the labels apart, the fitted head finds nearly all of them."""
    torch.manual_seed(0)
    features = torch.randn(80, 6)
    labels = (features[:, :3] + 0.1 * torch.randn(80, 3) > 0).float()
    head = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))
    loss = fit_probe(head, features, features, labels, Balance.NONE)
    said = head.eval()(features) > 0
    assert (said == labels.bool()).float().mean() > 0.95
    found = nn.functional.binary_cross_entropy_with_logits(head(features), labels).item()
    assert found == pytest.approx(loss, rel=0.02)
    with pytest.raises(ValueError, match="balance must be none"):
        fit_probe(head, features, features, labels, Balance.LOSS)
