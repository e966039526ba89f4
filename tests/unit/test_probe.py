"""The probe: what its regression minimises, how its penalty is chosen, what the head becomes."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from tests.tiny_training import network_of
from trainers.probe import (
    FOLDS,
    PENALTIES,
    Regression,
    choose_penalty,
    class_weights,
    deal_folds,
    fit_probe,
)
from trainers.schedule import Balance

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


def clouds(
    photos: int, features: int, classes: int, apart: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Make features of photos and of mirror images around a centre for each class, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(photos) % classes
    centres = rng.normal(0, apart, (classes, features))
    seen = centres[labels] + rng.normal(0, 1, (photos, features))
    mirrored = seen + rng.normal(0, 0.1, seen.shape)
    scales = rng.uniform(0.01, 3, features)
    both = (torch.from_numpy(x * scales + 0.5).float() for x in (seen, mirrored))
    return (*both, torch.from_numpy(labels))  # type: ignore[return-value]


def head_of(features: int, classes: int) -> nn.Sequential:
    """Build a linear head of a network, with random weights."""
    torch.manual_seed(0)
    layers = nn.BatchNorm1d(features), nn.Dropout(0.5), nn.Linear(features, classes)
    return nn.Sequential(*layers)


def probed(
    photos: Tensor, mirrored: Tensor, labels: Tensor, balance: Balance = Balance.NONE
) -> nn.Sequential:
    """Fit a new head to features."""
    head = head_of(photos.shape[1], int(labels.max()) + 1)
    fit_probe(head, photos, mirrored, labels, balance)
    return head.eval()


def held_out_loss(head: nn.Sequential, features: Tensor, labels: Tensor) -> float:
    """Return the mean log loss on photos that took no part."""
    with torch.no_grad():
        return nn.functional.cross_entropy(head(features), labels).item()


@pytest.mark.parametrize("balance", list(Balance))
@pytest.mark.parametrize("features", [12, 90])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_fit_is_scikit_learns(classes: int, features: int, balance: Balance) -> None:
    """The same minimum, with more features than photos or fewer, with class weights or not."""
    inputs, _, labels = clouds(45, features, classes)
    labels[:12] = 0  # so that classes are not of one size
    weights = class_weights(labels, classes, balance)
    regression = Regression.of(inputs, labels, classes)
    for penalty in (1.0, 0.01):
        found = regression.fit(weights[:, None], penalty)
        logits = inputs.double() @ regression.turned_back(found[:-1]) + found[-1]
        # A difference of two rows of weights is penalised half as much as one row.
        strength = (2 if classes == 2 else 1) / (penalty * len(labels))
        peer = LogisticRegression(
            C=strength,
            tol=1e-10,
            max_iter=10_000,
            class_weight=None if balance is Balance.NONE else "balanced",
        ).fit(inputs.double().numpy(), labels.numpy())
        expected = peer.predict_proba(inputs.double().numpy())
        assert logits.softmax(1).numpy() == pytest.approx(expected, abs=1e-4)


def test_columns_do_not_mind_each_other() -> None:
    """Regressions that are fitted side by side come out as each does alone."""
    inputs, _, labels = clouds(40, 10, 3)
    regression = Regression.of(inputs, labels, 3)
    weights = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (40, 4)))
    together = regression.losses(regression.fit(weights, 0.1))
    for column in range(4):
        alone = regression.losses(regression.fit(weights[:, [column]], 0.1))
        assert torch.allclose(together[:, [column]], alone, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_head_s_logits_are_the_regression_s(scale: float) -> None:
    """In evaluation, what BatchNorm and Linear make of features is the fit to 1e-4."""
    photos, mirrored, labels = clouds(30, 50, 3)
    photos, mirrored = photos * scale, mirrored * scale
    photos[:, 3] = mirrored[:, 3] = 0.7
    head = head_of(50, 3)
    fit_probe(head, photos, mirrored, labels, Balance.NONE)
    assert not head.training
    every, truth = torch.cat([photos, mirrored]), torch.cat([labels, labels])
    mean, variance = every.double().mean(0), every.double().var(0, correction=0).mean()
    inputs = (every.double() - mean) / (variance + 1e-5).sqrt()
    regression = Regression.of(inputs, truth, 3)
    ones = class_weights(truth, 3, Balance.NONE)
    penalty = choose_penalty(regression, deal_folds(labels), ones)
    found = regression.fit(ones[:, None], penalty)
    expected = inputs @ regression.turned_back(found[:-1]) + found[-1]
    assert torch.allclose(head(every).double(), expected, atol=1e-4)


def test_the_loss_is_that_of_the_head() -> None:
    """What a fit returns is the head's mean log loss on photos and mirror images."""
    photos, mirrored, labels = clouds(30, 8, 2)
    head = head_of(8, 2)
    loss = fit_probe(head, photos, mirrored, labels, Balance.NONE)
    every, truth = torch.cat([photos, mirrored]), torch.cat([labels, labels])
    assert loss == pytest.approx(held_out_loss(head, every, truth), abs=1e-5)


@pytest.mark.parametrize(
    ("apart", "photos"),
    [
        (0.15, 60),
        *(pytest.param(*each, marks=pytest.mark.long) for each in ((0.3, 60), (0.4, 300))),
    ],
)
def test_the_chosen_penalty_beats_the_extremes(
    monkeypatch: pytest.MonkeyPatch, apart: float, photos: int
) -> None:
    """On photos that took no part, however close classes lie together and however few photos."""
    features, mirrored, labels = clouds(photos + 2000, 40, 3, apart)
    seen = features[:photos], mirrored[:photos], labels[:photos]
    new = features[photos:], labels[photos:]
    chosen = held_out_loss(probed(*seen), *new)
    for extreme in (PENALTIES[0], PENALTIES[-1]):
        monkeypatch.setattr("trainers.probe.PENALTIES", (extreme,))
        assert chosen < held_out_loss(probed(*seen), *new)


def test_a_mirror_image_is_held_out_with_its_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise copies of what is judged would be learnt, and the weakest penalty look best."""
    photos, _, labels = clouds(60, 40, 2, apart=0.05)
    fitted = list[Tensor]()
    real = Regression.fit

    def noting(regression: Regression, weights: Tensor, *rest: Any, **more: Any) -> Tensor:
        fitted.append(weights)
        return real(regression, weights, *rest, **more)

    monkeypatch.setattr(Regression, "fit", noting)
    probed(photos, photos, labels)
    folds = fitted[0]
    assert folds.shape == (120, FOLDS)
    assert torch.equal(folds[:60], folds[60:])
    assert torch.equal(folds.sum(1), torch.full((120,), FOLDS - 1.0, dtype=torch.float64))


def test_it_repeats_itself_to_the_last_bit() -> None:
    """Whatever weights the head had before, and whatever torch's generator stands at."""
    given = clouds(60, 40, 3)
    first = probed(*given)
    torch.manual_seed(5)
    again = head_of(40, 3)
    nn.init.normal_(again[2].weight)  # type: ignore[arg-type]
    again.train()(given[0])
    fit_probe(again, *given, Balance.NONE)
    for name, value in first.state_dict().items():
        if name != "0.num_batches_tracked":
            assert torch.equal(value, again.state_dict()[name]), name


DEGENERATE = {
    "a photo of each class": [0, 1, 2, 3],
    "two photos of each class": [0, 0, 1, 1],
    "a lone photo beside many": [0, *[1] * 20],
    "more classes than folds": [*range(9)] * 2,
    "two photos, by turns": [0, 1, 0, 1, 2],
}


@pytest.mark.parametrize("labels", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("balance", list(Balance))
def test_few_photos_are_enough(labels: list[int], balance: Balance) -> None:
    """Each class is still told apart where its photos lie apart, and all numbers are finite."""
    truth = torch.tensor(labels)
    photos = 3 * torch.eye(12)[truth] + 0.01 * clouds(len(labels), 12, 2)[0]
    head = probed(photos, photos, truth, balance)
    assert all(bool(value.isfinite().all()) for value in head.state_dict().values())
    if balance is not Balance.NONE:  # otherwise a lone photo may be given up for many
        assert head(photos).argmax(1).tolist() == labels


def test_features_that_never_change_count_for_nothing() -> None:
    """Alone, they leave the classes' frequencies; beside others, they have no weight."""
    labels = torch.tensor([0, 0, 0, 1])
    same = torch.full((4, 6), 0.3)
    head = probed(same, same, labels)
    expected = torch.tensor([[0.75, 0.25]] * 4)
    assert torch.allclose(head(same).softmax(1), expected, atol=1e-4)


def test_folds_are_of_all_classes_and_keep_neighbours_together() -> None:
    """Every class is in as many folds as it has photos for, and in no fold with a lone photo."""
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] + [3] * 2)
    folds = deal_folds(labels)
    assert folds[:10].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert len(set(folds[10:13].tolist())) == 3
    assert folds[13] == -1
    assert len(set(folds[14:].tolist())) == 2
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for label in range(4):
        mine = deal_folds(labels[shuffled])[labels[shuffled] == label]
        assert mine.tolist() == folds[labels == label].tolist()


def test_classes_count_alike_when_balanced() -> None:
    """The weights of each class's photos sum to the same, and those of all to the photos."""
    labels = torch.tensor([0, 0, 0, 1, 3])
    weights = class_weights(labels, 4, Balance.LOSS)
    sums = [float(weights[labels == label].sum()) for label in (0, 1, 3)]
    assert sums == pytest.approx([5 / 3] * 3)
    assert class_weights(labels, 4, Balance.NONE).tolist() == [1] * 5


def test_large_sets_are_judged_by_fewer_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where five logits a photo and class are too many, one fold judges, and the probe is sound."""
    given = clouds(100, 10, 2)
    expected = held_out_loss(probed(*given), given[0], given[2])
    monkeypatch.setattr("trainers.probe.MOST_LOGITS", 10)
    assert held_out_loss(probed(*given), given[0], given[2]) == pytest.approx(expected, abs=0.1)


def test_a_network_s_head_is_what_it_expects() -> None:
    """The head that networks have without hidden layers can be fitted, and keeps its statistics."""
    network = network_of(hidden=())
    squares = torch.rand(12, 3, 24, 24)
    with torch.no_grad():
        features = network.eval().features(squares)
    fit_probe(network.head, features, features, torch.arange(12) % 2, Balance.NONE)
    norm: Any = network.head[0]
    assert torch.allclose(norm.running_mean, features.mean(0), atol=1e-6)
