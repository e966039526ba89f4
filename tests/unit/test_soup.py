"""Weight soups by hand: the mean, its BatchNorm statistics, the choice, and who is refused."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.stats import norm
from torch import Tensor

from study.datasets.unchanged import check_photos
from study.errors import UnrelatedWeights
from study.selection.soup import Ingredient, SoupResult, soup
from study.selection.soup import why_strangers as why
from study.selection.soup_choice import corrected, greedy_soup, of_predictions
from study.statistics.crossfit import CrossFit, paired_p
from study.views.ensembles import print_soup
from tests.choices import could_be
from tests.lab import Lab
from tests.tiny_training import CPU, card_of, network_of, noise, same, schedule, stage
from trainers.backbone import Network
from trainers.checkpoint import read_weights, save_weights
from trainers.classifier import load
from trainers.data.manifest import DatasetError, Manifest, Split
from trainers.metrics import Metric
from trainers.soup import Averager, average, drifting, estimate_statistics

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

HOSTILE = r"[red]a [bold] [bold :fire: \[b]"


def seen(seed: int, *, frozen: int = 0) -> Network:
    """Build a network whose BatchNorm has seen photos of its own, but for what is frozen."""
    network = network_of()
    network.freeze(frozen)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        network.train()(torch.rand(8, 3, 24, 24, generator=generator) * (seed + 1))
    return network.eval()


def squares(count: int, seed: int = 9) -> Tensor:
    """Make random squares."""
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def test_the_mean_is_the_mean() -> None:
    """Each weight is the mean by hand, counters are the first one's, equals stay to the bit."""
    states = [seen(seed).state_dict() for seed in range(3)]
    found = average(iter(states))
    for name, value in found.items():
        by_hand = np.mean([state[name].numpy() for state in states], axis=0)
        if value.is_floating_point():
            assert np.allclose(value.numpy(), by_hand, atol=1e-7)
        else:
            assert torch.equal(value, states[0][name])
        assert value.dtype == states[0][name].dtype
    assert same(average([states[0]] * 7), states[0])
    with pytest.raises(ValueError, match="states must be of one network"):
        average([states[0], network_of(hidden=(4,)).state_dict()])


def test_statistics_are_those_of_a_pass_by_hand() -> None:
    """The first BatchNorm gets mean and variance of what reaches it, a small batch as its share."""
    network = seen(0)
    batches = [squares(6, 1), squares(6, 2), squares(3, 3)]
    layers = {name for name, _ in network.named_modules()} & drifting(
        average([network.state_dict(), seen(1).state_dict()]), network.state_dict()
    )
    reaching: list[Tensor] = []
    first = network.body.bn1
    hook = first.register_forward_pre_hook(lambda _, given: reaching.append(given[0]))
    momentum, weights = first.momentum, {k: v.clone() for k, v in network.named_parameters()}
    estimate_statistics(network, layers, batches, CPU)
    hook.remove()
    mean = sum(len(x) * x.mean((0, 2, 3)) for x in reaching) / 15
    variance = sum(len(x) * x.var((0, 2, 3)) for x in reaching) / 15
    assert torch.allclose(first.running_mean, mean, atol=1e-5)
    assert torch.allclose(first.running_var, variance, rtol=1e-4)
    assert (first.momentum, network.training, first.training) == (momentum, False, False)
    assert all(torch.equal(weights[k], v) for k, v in network.named_parameters())


def test_statistics_do_not_know_dropout() -> None:
    """Dropout is off while they are estimated: twice gives the same to the last bit."""
    network = seen(0)
    network.set_dropout([0.9, 0.9])
    layers = {"head.0", "head.4"}
    states = []
    for _ in range(2):
        estimate_statistics(network, layers, [squares(8)], CPU)
        states.append({name: value.clone() for name, value in network.state_dict().items()})
    assert same(*states)
    with torch.no_grad():
        batch = network.head[0].train()(network.features(squares(8)))
        hidden = network.head[3](network.head[2](batch))
    assert torch.allclose(network.head[4].running_mean, hidden.mean(0), atol=1e-5)


def test_frozen_statistics_stay() -> None:
    """What was frozen in all ingredients keeps its statistics; all behind it are estimated."""
    first, second = seen(1, frozen=1), seen(2, frozen=1)
    mean = average([first.state_dict(), second.state_dict()])
    layers = drifting(mean, first.state_dict())
    every = drifting(average([seen(1).state_dict(), seen(2).state_dict()]), seen(1).state_dict())
    assert layers < every
    assert {name for name in every if name.startswith("head.")} <= layers
    network = network_of()
    network.load_state_dict(mean)
    estimate_statistics(network, layers, [squares(8)], CPU)
    for name in every:
        before, after = mean[f"{name}.running_mean"], network.state_dict()[f"{name}.running_mean"]
        assert torch.equal(before, after) is (name not in layers)


def averager(
    tmp_path: Path, networks: Sequence[Network], tta: Sequence[bool] = (False, False)
) -> tuple[Averager, Manifest]:
    """Return what makes soups of these networks, saved as files trained on noise."""
    manifest = noise(tmp_path / "photos")
    files = []
    for index, network in enumerate(networks):
        files.append(tmp_path / f"{index}.safetensors")
        about = {"classes": manifest.classes, "manifest_digest": manifest.digest}
        card = card_of(**about, seed=index, tta=tta[index])
        save_weights(files[-1], network.state_dict(), card)
    return Averager(manifest, files, CPU), manifest


def shown(manifest: Manifest, split: Split) -> Tensor:
    """Return the photos of a split as prediction shows them, with nothing but PIL and torch."""
    squares = []
    for photo in manifest.of_split(split):
        image = Image.open(manifest.root / photo.path)
        scale = 24 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        small = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (small.width - 24) // 2, (small.height - 24) // 2
        squares.append(np.array(small.crop((left, top, left + 24, top + 24))))
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255


def test_a_soup_is_made_as_by_hand(tmp_path: Path) -> None:
    """Mean, one pass over all training photos, prediction: as plain torch does it, and saved so."""
    networks = [seen(1), seen(2)]
    greedy, manifest = averager(tmp_path, networks)
    by_hand = network_of()
    by_hand.load_state_dict(average([network.state_dict() for network in networks]))
    for module in by_hand.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # all photos in one batch: their statistics are all there is
    by_hand.set_dropout([0.0, 0.0])
    with torch.no_grad():
        by_hand.train()(shown(manifest, Split.TRAIN))
        expected = by_hand.eval()(shown(manifest, Split.VALID)).softmax(1).numpy()
    found = greedy.evaluation([1, 0])
    assert np.allclose(found.probabilities, expected, atol=1e-4)
    assert (found.labels == manifest.labels(Split.VALID)).all()

    greedy.save([1, 0], tmp_path / "soup.safetensors", {"soup_of": "two"})
    weights, card = read_weights(tmp_path / "soup.safetensors")
    assert (card.seed, card.made_by, card.decision) == (1, {"soup_of": "two"}, None)
    assert card.metrics["accuracy"] == (found.predicted == found.labels).mean()
    for name, value in by_hand.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(weights[name], value, atol=1e-4)


def test_a_file_alone_is_as_it_is(tmp_path: Path) -> None:
    """One file is neither averaged nor estimated anew: its own statistics predict."""
    greedy, manifest = averager(tmp_path, [seen(1), seen(2)])
    with torch.no_grad():
        expected = seen(2)(shown(manifest, Split.VALID)).softmax(1).numpy()
    assert np.allclose(greedy.evaluation([1]).probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(
    "tta",
    [
        (True, False),
        *(pytest.param(each, marks=pytest.mark.long) for each in ((True, True), (False, True))),
    ],
)
def test_a_soup_is_judged_as_its_first_ingredient_was(
    tta: tuple[bool, bool], tmp_path: Path
) -> None:
    """With mirror images or without: in what is chosen by, in its card and by `predict`."""
    greedy, manifest = averager(tmp_path, [seen(1), seen(2)], tta)
    paths = [manifest.root / photo.path for photo in manifest.of_split(Split.VALID)]
    for members in ([0, 1], [1, 0]):
        file = tmp_path / f"soup{members}.safetensors"
        greedy.save(members, file, {})
        soup, found = load(file), greedy.evaluation(members).probabilities
        assert soup.card.tta is tta[members[0]]
        assert np.allclose(soup.predict(paths), found, atol=1e-6)
        assert not np.allclose(soup.predict(paths, augment=not soup.card.tta), found, atol=1e-5)


def test_files_of_other_data_make_no_soup(tmp_path: Path) -> None:
    """A file that was trained on other photos is refused by name."""
    _, manifest = averager(tmp_path, [seen(1)])
    other = replace(manifest, photos=manifest.photos[:-1])
    with pytest.raises(ValueError, match=r"0\.safetensors must be trained on the manifest's data"):
        Averager(other, [tmp_path / "0.safetensors"], CPU)


def test_the_greedy_soup_keeps_what_does_not_harm() -> None:
    """Files are tried in order, each with those kept so far; one that changes nothing stays."""
    worth = {(4,): 0.8, (4, 2): 0.7, (4, 0): 0.8, (4, 0, 3): 0.9, (4, 0, 3, 1): 0.89}
    assert greedy_soup([4, 2, 0, 3, 1], lambda members: worth[tuple(members)]) == (4, 0, 3)


def test_what_survival_adds_to_predictions_is_taken_off_a_soup() -> None:
    """Scores and gain lose what surviving files add; the interval knows both errors."""
    soup_of = CrossFit(0.9, 0.85, 0.05, (0.02, 0.08))
    survivors, anew = (
        CrossFit(0.92, 0.9, 0.02, (0, 0.04)),
        CrossFit(0.88, 0.87, 0.01, (-0.03, 0.05)),
    )
    found = corrected(soup_of, survivors, anew)
    assert (found.score_ensemble, found.score_single) == pytest.approx((0.86, 0.82))
    assert found.gain == pytest.approx(0.04)
    assert found.gain_interval == pytest.approx((0.04 - 0.05, 0.04 + 0.05))


@pytest.mark.long
def test_surviving_files_flatter_a_mean_of_predictions() -> None:
    """Of 200 equals the ten best by all photos seem better in a fold than ten kept without it."""
    rng, flattered, fair = np.random.default_rng(3), [], []
    for _ in range(8):
        labels, ease = np.arange(60) % 2, 1.8 + rng.normal(size=60)
        true = norm.cdf(ease + rng.normal(size=(200, 60)))
        first = np.where(labels == 0, true, 1 - true)
        tables = np.stack([first, 1 - first], axis=2).astype(np.float32)
        could = could_be(tables, labels, most=10)
        (kept,) = could.kept(np.ones((60, 1), np.float32))
        survivors, anew = of_predictions(could, kept, Metric.ACCURACY)
        truth = norm.cdf(ease).mean()  # what any of them reaches on photos as easy as these
        flattered.append(survivors.score_ensemble - anew.score_ensemble)
        fair.append(anew.score_single - truth)
    error = np.std(fair) / np.sqrt(len(fair))
    assert np.mean(flattered) > 0.02
    assert np.mean(fair) == pytest.approx(0, abs=3 * error)


def test_the_paired_test_is_mcnemars() -> None:
    """Ten photos better and two worse of many: the binomial's two tails, by hand."""
    labels = np.zeros(40, np.int64)
    first = np.tile(np.float32([0.9, 0.1]), (40, 1))
    second = first.copy()
    second[:10], first[10:12] = (0.1, 0.9), (0.1, 0.9)
    tails = 2 * (1 + 12 + 66) / 2**12
    assert paired_p(Metric.ACCURACY, labels, first, second) == pytest.approx(tails)
    assert paired_p(Metric.ACCURACY, labels, first, first) == 1.0
    # One class, so balanced accuracy is the same number: its draws of signs come to the same.
    drawn = paired_p(Metric.BALANCED_ACCURACY, labels, first, second)
    assert drawn == pytest.approx(tails, abs=0.01)


def test_strangers_are_told_why() -> None:
    """Of two trials without a common beginning, the first thing that parts them is named."""
    one = schedule(stage(), stage(lrs=0.02))
    other = replace(one, stages=(stage(image_size=32),))
    assert why(one, replace(one, backbone="x"), (0, 0)) == "their backbones differ (test_resnet, x)"
    assert why(one, replace(one, hidden=()), (0, 0)) == "their heads differ ([8], [])"
    assert "weights they start from" in why(one, replace(one, weights="pretrained"), (0, 0))
    assert why(one, other, (0, 2)) == "their seeds differ (0, 2)"
    assert why(one, other, (2, 2)) == "their first stages differ in image_size (24, 32)"
    assert why(one, one, (2, 2)) == "one of them was never begun"


def test_strangers_are_refused(finished: Lab) -> None:
    """Trials given by hand that share no first stage end in one sentence, unknown ones as well."""
    with finished.reading() as (store, study, _):
        seeds = {trial.seed: trial.number for trial in store.trials(study.id)}
    one, other = seeds[0], next(number for seed, number in seeds.items() if seed)
    with pytest.raises(
        UnrelatedWeights, match=f"trials {one} and {other} share no first stage: their"
    ):
        soup(storage=finished.url, trials=[one, other])
    with pytest.raises(LookupError, match="no trial 999"):
        soup(storage=finished.url, trials=[999, one])


def test_changed_photos_are_data_refused(tmp_path: Path) -> None:
    """A photo that is gone and one that is another are named before anything is made."""
    manifest = noise(tmp_path)
    check_photos("x", manifest)
    gone, changed = manifest.of_split(Split.TRAIN)[0], manifest.of_split(Split.VALID)[0]
    (tmp_path / gone.path).unlink()
    (tmp_path / changed.path).write_bytes(b"other")
    with pytest.raises(DatasetError, match="2 photos of study 'x' are missing or changed") as error:
        check_photos("x", manifest)
    assert gone.path in str(error.value)


@pytest.mark.parametrize("file", [None, f"chosen/{HOSTILE}"])
def test_what_is_printed_is_literal(file: str | None) -> None:
    """Hostile names are shown as they are; a soup that was not better has both figures."""
    text = io.StringIO()
    each = Ingredient(7, 3, 1, 2, f"runs/{HOSTILE}.safetensors", "f" * 64, 0.91, True)
    out = replace(each, trial=8, used=False)
    cross, p_value = CrossFit(0.9, 0.875, 0.025, (-0.01, 0.06)), 0.3 if file is None else 0.01
    found = SoupResult(
        *("[/]", Metric.ACCURACY, (each, out), 0.92, 8, 100),
        *(7, 0.91, 9, cross, file is not None, p_value, file is not None, file, (HOSTILE,)),
    )
    print_soup(Console(file=text, width=200, emoji=False), found)
    assert text.getvalue().count(HOSTILE) == (3 if file is None else 4)
    assert "[/]" in text.getvalue()
    not_better = "not significantly better: accuracy 90.0 %, the best file 87.5 % (p 0.3"
    assert (not_better in text.getvalue()) is (file is None)
    assert ("still optimistic" in text.getvalue()) is (file is None)
