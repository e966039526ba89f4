"""What frozen layers make of photos: computed once, and the same as if it were each time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_training import CPU, network_of, noise, numbers, outcome, schedule, stage
from trainers import cut, inputs
from trainers.backbone import Network
from trainers.base import LAST, StageTask
from trainers.cut import Cut
from trainers.data import loader
from trainers.data.cache import Cache
from trainers.data.loader import Photos
from trainers.data.manifest import Manifest
from trainers.device import Compute
from trainers.finetuner import Finetuner
from trainers.inputs import Inputs
from trainers.metrics import EpochMetrics
from trainers.schedule import Stage

ONCE = 10 + 6
"""What is to be shown to a body: the photos to train on, and those to validate."""

FROZEN: dict[str, Any] = {"frozen": 1.0, "crop": "no", "cycle_len": 3}
SAME = [{}, {"crop": "center"}, {"max_zoom": 1.5}]
"""What changes nothing about every epoch showing the same pixels."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make 10 photos to train on and 6 to validate."""
    return noise(tmp_path_factory.mktemp("photos"), 10, 6)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of photos, each time that a body is shown some."""
    shown, real, rows = list[int](), Network.features, Cut.rows

    def counting(network: Network, squares: Tensor) -> Tensor:
        shown.append(len(squares))
        return real(network, squares)

    def counting_rows(cut: Cut, squares: Tensor, compute: Compute, size: int) -> Tensor:
        shown.append(len(squares))
        return rows(cut, squares, compute, size)

    monkeypatch.setattr(Network, "features", counting)
    monkeypatch.setattr(Cut, "rows", counting_rows)
    return shown


class Trainings:
    """Trains stages with one trainer, or with a new one for each."""

    def __init__(self, photos: Manifest, root: Path) -> None:
        self.make: Callable[[], Finetuner] = lambda: Finetuner(photos, compute=CPU)
        self.trainer = self.make()
        self.root = root

    def folder(self, name: str) -> Path:
        """Return a folder that is there."""
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def train(
        self,
        name: str,
        *stages: Stage,
        seed: int = 0,
        parent: str | None = None,
        epochs: int | None = None,
    ) -> list[EpochMetrics]:
        """Train the last of some stages into the folder of a name; leave it after some epochs."""
        start = None if parent is None else self.root / parent / LAST
        task = StageTask(
            schedule=schedule(*stages), seed=seed, folder=self.folder(name), start=start
        )
        generator = self.trainer.train(task)
        found = [next(generator) for _ in range(epochs or task.stage.epochs)]
        generator.close()
        return found


@pytest.fixture
def trainings(photos: Manifest, tmp_path: Path) -> Trainings:
    """Return a trainer and folders."""
    return Trainings(photos, tmp_path)


@pytest.mark.parametrize("fields", SAME, ids=str)
def test_a_frozen_body_sees_each_photo_once(
    trainings: Trainings, shown: list[int], fields: dict[str, Any]
) -> None:
    """Not again in other epochs, in a second stage, nor in another trial that begins alike."""
    first, second = stage(**FROZEN | fields), stage(**FROZEN | fields, lrs=0.1, dropout=0.5)
    trainings.train("a", first)
    assert sum(shown) == ONCE
    trainings.train("b", first, second, parent="a")
    trainings.train("c", second)
    assert sum(shown) == ONCE


@pytest.mark.parametrize("fields", [{}, {"crop": "random"}], ids=str)
def test_a_frozen_body_is_hashed_once_a_stage(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """However many epochs there are, for training and validation together, and after a resume."""
    hashed, real = list[int](), cut._digest

    def counting(network: Network, front: Sequence[nn.Module]) -> str:
        hashed.append(id(network))
        return real(network, front)

    monkeypatch.setattr(cut, "_digest", counting)
    first, second = stage(**FROZEN | fields), stage(**FROZEN | fields, lrs=0.1)
    trainings.train("a", first)
    assert len(hashed) == 1
    trainings.train("b", first, second, parent="a")
    assert len(hashed) == 2
    trainings.train("c", first, seed=1, epochs=1)
    trainings.train("c", first, seed=1)
    assert len(hashed) == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"crop": "random"},
        {"crop": "googlenet"},
        {"crop": "center", "max_zoom": 1.2},
        {"augmentation": "side-on"},
        {"augmentation": "top-down"},
    ],
    ids=str,
)
def test_photos_that_change_are_shown_anew(
    trainings: Trainings, shown: list[int], fields: dict[str, Any]
) -> None:
    """In training, that is; validation photos never change."""
    trainings.train("a", stage(**FROZEN | fields))
    assert sum(shown) == 3 * 10 + 6


def test_a_body_that_learns_sees_every_photo(trainings: Trainings, shown: list[int]) -> None:
    """In each epoch, to train on and to validate."""
    trainings.train("a", stage(**FROZEN | {"frozen": 0.0}))
    assert sum(shown) == 3 * ONCE


@pytest.mark.parametrize("frozen", [0.3, 0.5, 1.0])
def test_frozen_layers_see_each_view_once(
    trainings: Trainings, shown: list[int], frozen: float
) -> None:
    """Whichever views an epoch shows: not again in other epochs, nor under another seed."""
    mine = stage(frozen=frozen, views=2, augmentation="side-on", cycle_len=3)
    trainings.train("a", mine)
    assert sum(shown) == 2 * 10 + 6
    trainings.train("b", mine, replace(mine, lrs=(0.02,) * 3), seed=1, parent="a")
    assert sum(shown) == 2 * 10 + 6


def test_other_weights_are_another_body(trainings: Trainings, shown: list[int]) -> None:
    """After another seed, or after a stage in which the body has learnt, all is computed anew."""
    frozen, learning = stage(**FROZEN), stage(frozen=0.5)
    trainings.train("a", frozen)
    trainings.train("b", frozen, seed=1)
    assert sum(shown) == 2 * ONCE
    trainings.train("c", frozen, learning, parent="a")
    shown.clear()
    found = trainings.train("d", frozen, learning, frozen, parent="c")
    assert sum(shown) == ONCE
    trainings.trainer = trainings.make()
    again = trainings.train("e", frozen, learning, frozen, parent="c")
    assert [*map(numbers, again)] == [*map(numbers, found)]


@pytest.mark.parametrize("change", [{"image_size": 32}, {"crop": "center"}], ids=str)
def test_other_pixels_have_other_features(
    trainings: Trainings, shown: list[int], change: dict[str, Any]
) -> None:
    """Another size or another crop of the same photos is computed for itself."""
    trainings.train("a", stage(**FROZEN))
    trainings.train("b", stage(**FROZEN | change))
    assert sum(shown) == 2 * ONCE


@pytest.mark.parametrize(
    "change", [{"architecture": "test_resnet_gelu"}, {"mean": (0.1, 0.2, 0.3)}], ids=str
)
def test_a_body_of_another_kind_is_not_taken_for_it(
    photos: Manifest, shown: list[int], change: dict[str, Any]
) -> None:
    """One file may hold weights for two kinds of bodies that do not do the same with them."""
    source, mine = Inputs(Photos(photos), CPU), stage(**FROZEN)
    one, other = network_of().eval(), network_of().eval()
    body: Any = other.body
    body.pretrained_cfg = body.pretrained_cfg | change
    for network in (one, other, one, other):
        source.validation(network, mine, None)
    assert sum(shown) == 2 * 6


@pytest.mark.parametrize("fields", SAME, ids=str)
def test_losses_are_those_of_the_ordinary_way(
    trainings: Trainings,
    shown: list[int],
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    """Where the body is run each time, all numbers are the same but for rounding."""
    mine = stage(**FROZEN | fields, dropout=0.4, label_smoothing=0.1, weight_decay=0.1)
    quick = trainings.train("quick", mine)
    shown.clear()
    monkeypatch.setattr(inputs, "cut_of", lambda *_: None)
    for one, other in zip(quick, trainings.train("ordinary", mine), strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
        assert one.valid_loss == pytest.approx(other.valid_loss, abs=1e-4)
        probabilities = other.evaluation.probabilities
        assert one.evaluation.probabilities == pytest.approx(probabilities, abs=1e-4)
    assert sum(shown) >= 3 * 10


@pytest.mark.parametrize("again", [True, False])
def test_a_stage_resumes_to_the_last_bit(trainings: Trainings, again: bool) -> None:
    """Left and gone on with, by the same process or by another that has no features yet."""
    mine = stage(**FROZEN, dropout=0.3)
    expected = trainings.train("whole", mine)
    for epochs in (1, 2):
        name = f"after{epochs}"
        trainings.train(name, mine, epochs=epochs)
        trainings.trainer = trainings.trainer if again else trainings.make()
        assert [*map(numbers, trainings.train(name, mine))] == [*map(numbers, expected)]
        assert outcome(trainings.folder(name)) == outcome(trainings.folder("whole"))


def test_only_the_latest_are_kept(trainings: Trainings, shown: list[int]) -> None:
    """Those of two stages: what was computed before has gone, and is computed anew."""
    for seed in (0, 1, 2):
        trainings.train(f"{seed}", stage(**FROZEN), seed=seed)
    assert sum(shown) == 3 * ONCE
    for seed in (1, 2):
        trainings.train(f"{seed} again", stage(**FROZEN | {"lrs": 0.1}), seed=seed)
    assert sum(shown) == 3 * ONCE
    trainings.train("0 again", stage(**FROZEN | {"lrs": 0.1}), seed=0)
    assert sum(shown) == 4 * ONCE


def test_features_do_not_depend_on_the_stage_they_were_computed_for(
    tmp_path: Path, shown: list[int]
) -> None:
    """A body sees photos in batches of one size, since another size may change the last bit."""
    many = noise(tmp_path, 70, 6)
    for batch_size in (4, 69, 200):
        shown.clear()
        source, mine = Inputs(Photos(many), CPU), stage(**FROZEN | {"batch_size": batch_size})
        network = network_of().eval()
        source.training(network, mine, None, seed=0, position=0, epoch=0)
        source.validation(network, mine, None)
        assert shown == [64, 6, 6]  # and 16 of these at a time


def test_the_head_sees_the_photos_of_its_batches(photos: Manifest) -> None:
    """In the order that an epoch draws, each photo's features stand beside its own label."""
    source, network, mine = Inputs(Photos(photos), CPU), network_of().eval(), stage(**FROZEN)
    network.freeze(1.0)
    place = {"seed": 0, "position": 0, "epoch": 1}
    head, quick = source.training(network, mine, None, **place)
    whole, ordinary = source.training(network, replace(mine, frozen=0), None, **place)
    assert (head, whole) == (network.head, network)
    for (values, labels), (squares, truth) in zip(quick, ordinary, strict=True):
        assert labels.tolist() == truth.tolist()
        assert torch.allclose(values, network.features(squares), atol=1e-5)
        assert not values.requires_grad


@pytest.mark.parametrize("frozen", [0.5, 1.0])
def test_batches_are_the_same_wherever_rows_lie(
    photos: Manifest, tmp_path: Path, shown: list[int], frozen: float
) -> None:
    """In a cache, for another process to find; in memory; or computed anew: to the last bit."""
    mine = stage(frozen=frozen, views=3, augmentation="side-on", batch_size=4, crop="googlenet")
    cached, found = Photos(photos, Cache(tmp_path / "cache", photos)), list[list[Tensor]]()
    sources = [
        Inputs(cached, CPU),
        Inputs(Photos(photos, Cache(tmp_path / "cache", photos)), CPU),
        Inputs(Photos(photos), CPU),
        Inputs(Photos(photos), CPU, memory=0),
    ]
    for source, computed in zip(sources, (3 * 10 + 6, 0, 3 * 10 + 6, 10 + 6), strict=True):
        shown.clear()
        network = network_of().train()
        network.freeze(frozen)
        _, training = source.training(network, mine, None, seed=5, position=1, epoch=2)
        _, validation = source.validation(network, mine, None)
        found.append([each for batch in (*training, *validation) for each in batch])
        assert sum(shown) == computed
    for others in found[1:]:
        assert all(map(torch.equal, others, found[0]))
        assert len(others) == len(found[0])


@pytest.mark.parametrize(
    ("device_sharers", "kept", "where"), [(1, True, "meta"), (2, True, "cpu"), (1, False, "cpu")]
)
def test_arrays_lie_on_a_gpu_that_has_room_for_them(
    photos: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    device_sharers: int,
    kept: bool,
    where: str,
) -> None:
    """In a quarter of what its own slots share, unless they are to leave. "meta" plays the GPU."""
    values = torch.zeros(100, dtype=torch.uint8)
    for module in (inputs, loader):
        monkeypatch.setattr(module, "has_own_memory", lambda device: device.type == "meta")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (400, 400))
    shared = {"sharers": 8, "device_sharers": device_sharers}
    mine = Inputs(Photos(photos, device=torch.device("meta"), **shared), CPU)
    mine.keep_on_device(kept=kept)
    assert mine._on_gpu(values).device.type == where
