"""Weights files: what they say about themselves, what is refused, and that writes are whole."""

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from trainers import checkpoint
from trainers.backbone import Network, build_network
from trainers.checkpoint import (
    NotOurWeights,
    WeightsCard,
    load_network_weights,
    load_training_state,
    package_versions,
    read_card,
    read_weights,
    save_training_state,
    save_weights,
)
from trainers.loop import make_optimizer
from trainers.metrics import EpochMetrics, Evaluation
from trainers.schedule import Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

STAGE = Stage(image_size=24, batch_size=4)
SCHEDULE = Schedule(backbone="test_resnet", stages=(STAGE,), hidden=(8,), weights="random")
LABELS = np.array([0, 1, 0])


def network_of(seed: int = 0, **fields: Any) -> Network:
    """Build a tiny network with two classes."""
    return build_network(Schedule(**{**SCHEDULE.to_dict(), "stages": (STAGE,), **fields}), 2, seed)


def card_of(**fields: Any) -> WeightsCard:
    """Make the card of a tiny network."""
    plain: dict[str, Any] = {
        "backbone": "test_resnet",
        "hidden": (8,),
        "classes": ("roses", "tulips \u2740"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "image_size": 24,
        "crop": "random",
        "schedule": SCHEDULE.to_dict(),
        "schedule_digest": SCHEDULE.digest,
        "manifest_digest": "0" * 64,
        "seed": 3,
        "stage": 0,
        "epoch": 2,
        "metrics": {"accuracy": 0.1 + 0.2},
        "packages": package_versions(),
    }
    return WeightsCard(**{**plain, **fields})


def epoch_of(number: int) -> EpochMetrics:
    """Make an epoch with numbers that decimal text would round."""
    probabilities = np.random.default_rng(number).random((3, 2), np.float32)
    return EpochMetrics.of(
        Evaluation(LABELS, probabilities),
        stage=0,
        epoch=number,
        cycle=1,
        lrs=(0.1, 1 / 3, 2 / 3),
        train_loss=0.1 + 0.2,
        valid_loss=1 / 7,
        seconds=0.3,
        images_per_second=1e3 / 7,
    )


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Give the weights file of a tiny network of seed 0."""
    path = tmp_path / "best.safetensors"
    save_weights(path, network_of(), card_of())
    return path


def put_card(path: Path, text: str | None) -> None:
    """Give a weights file another card, or none."""
    metadata = None if text is None else {"format": "pt", "encore": text}
    safetensors.torch.save_file({"head.0.bias": torch.zeros(8)}, path, metadata)


def test_weights_come_back_as_they_were(saved: Path) -> None:
    """Every tensor to the last bit, also from memory laid out in another order."""
    tensors, _ = read_weights(saved)
    assert same(tensors, dict(network_of().state_dict()))
    other = network_of(seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_weights(saved, other, card_of())
    assert same(read_weights(saved)[0], dict(network_of(seed=1).state_dict()))


def test_the_card_comes_back_as_it_was(saved: Path) -> None:
    """Each field has its value and its type, so a file needs nothing beside it to be used."""
    card = read_card(saved)
    plain = json.loads(json.dumps(SCHEDULE.to_dict()))
    assert card == card_of(schedule=plain)
    assert card.metrics == {"accuracy": 0.1 + 0.2}
    assert card == read_weights(saved)[1]
    assert Schedule.from_dict(card.schedule).digest == card.schedule_digest
    assert {"python", "torch", "timm"} <= card.packages.keys()


def test_any_safetensors_reader_understands_the_file(saved: Path) -> None:
    """The file is plain safetensors in the "pt" format, the card plain JSON under one key."""
    with safetensors.safe_open(saved, "np") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["encore"])["classes"] == ["roses", "tulips \u2740"]


def broken_cards() -> dict[str, str]:
    """Give cards that are no card of this format, each wrong in one way."""
    plain = json.loads(json.dumps(card_of().__dict__))
    changes: dict[str, dict[str, Any]] = {
        "another format": {"format_version": "2"},
        "no format": {"format_version": None},
        "a huge head": {"hidden": [10**9]},
        "a head of text": {"hidden": "abc"},
        "a head of lists": {"hidden": [[8]]},
        "a head of floats": {"hidden": [8.0]},
        "a hub name": {"backbone": "hf-hub:x/y"},
        "a path": {"backbone": "../../etc/passwd"},
        "a number as name": {"backbone": 5},
        "a huge photo": {"image_size": 10**9},
        "a size of text": {"image_size": "24"},
        "an unknown crop": {"crop": "round"},
        "no classes": {"classes": []},
        "classes of numbers": {"classes": [1, 2]},
        "classes of one number": {"classes": 2},
    }
    cards = {name: json.dumps({**plain, **change}) for name, change in changes.items()}
    for field in plain:
        cards[f"no {field}"] = json.dumps({k: v for k, v in plain.items() if k != field})
    cards |= {"empty": "", "no JSON": "{'a': 1}", "null": "null", "list": "[]", "number": "7"}
    return cards | {"deep": "[" * 100_000, "long": '{"format_version": ' + "9" * 5000 + "}"}


@pytest.mark.parametrize("kind", broken_cards())
def test_broken_cards_are_refused(kind: str, tmp_path: Path) -> None:
    """Whatever a card says, it is refused in one short sentence; no other error comes of it."""
    path = tmp_path / "best.safetensors"
    put_card(path, broken_cards()[kind])
    for read in (read_card, read_weights):
        with pytest.raises(NotOurWeights) as error:
            read(path)
        assert len(str(error.value)) < 300
    if kind == "another format":
        assert (
            str(error.value)
            == "weights are of format 2, this Encore reads 1; upgrade encore-search"
        )


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell pickle to call Path.mkdir."""
        return (Path.mkdir, (self.path,))


def test_files_that_are_no_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    """Cut off, empty, of another kind, a folder or absent: one error, and no code is run."""
    whole = saved.read_bytes()
    trap = tmp_path / "trapped"
    contents = [b"", b"text", whole[:7], whole[:100], whole[:-1], whole + b"x", b"\xff" * 64]
    contents += [pickle.dumps(Hostile(trap)), (2**40).to_bytes(8, "little") + b"{}"]
    path = tmp_path / "other.safetensors"
    for content in contents:
        path.write_bytes(content)
        for read in (
            read_card,
            read_weights,
            lambda path: load_network_weights(path, network_of()),
        ):
            with pytest.raises(NotOurWeights, match="is not a whole safetensors file"):
                read(path)
    torch.save({"trap": Hostile(trap)}, path)
    for bad in (path, tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(NotOurWeights):
            read_weights(bad)
    assert not trap.exists()
    put_card(path, None)
    with pytest.raises(NotOurWeights, match="holds no Encore metadata; give a file that `best`"):
        read_weights(path)
    with pytest.raises(NotOurWeights):
        read_card(path)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the file that was there stays whole and nothing is left beside it."""
    before = saved.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:  # noqa: ARG001
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(saved, network_of(seed=1), card_of())
    with pytest.raises(OSError, match="No space left"):
        save_training_state(saved, network_of(seed=1), None, [epoch_of(1)])
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_state_comes_back_as_it_was(optimizer: str, tmp_path: Path) -> None:
    """Weights, optimizer and history are restored to the last bit, in another process's memory."""
    mine = Stage(image_size=24, batch_size=4, optimizer=optimizer, weight_decay=0.1)  # type: ignore[arg-type]
    networks = [network_of(s).to(memory_format=torch.channels_last) for s in (0, 1)]  # type: ignore[call-overload]
    optimizers = [make_optimizer(network, mine) for network in networks]
    squares, path = torch.rand(4, 3, 24, 24), tmp_path / "last.safetensors"

    def step(index: int) -> None:
        optimizers[index].zero_grad()
        torch.manual_seed(0)
        networks[index](squares).square().mean().backward()
        optimizers[index].step()

    step(0)
    history = [epoch_of(1), epoch_of(2)]
    save_training_state(path, networks[0], optimizers[0], history)
    found = load_training_state(path, networks[1], optimizers[1], LABELS)
    assert found == history
    for old, new in zip(history, found, strict=True):
        assert np.array_equal(old.evaluation.probabilities, new.evaluation.probabilities)
    assert same(dict(networks[0].state_dict()), dict(networks[1].state_dict()))
    step(0)
    step(1)
    assert same(dict(networks[0].state_dict()), dict(networks[1].state_dict()))


def test_a_training_state_of_something_else_changes_nothing(saved: Path, tmp_path: Path) -> None:
    """Weights without history, and the state of another network, are refused before use."""
    mine = network_of(seed=5)
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    optimizer, last = make_optimizer(mine, STAGE), tmp_path / "last.safetensors"
    files = [saved]
    for index, (other, history) in enumerate(
        [(network_of(hidden=(9,)), [epoch_of(1)]), (network_of(), [])]
    ):
        files.append(last.with_name(f"{index}.safetensors"))
        save_training_state(files[-1], other, None, history)
    for path in files:
        with pytest.raises(NotOurWeights):
            load_training_state(path, mine, optimizer, LABELS)
    save_training_state(last, network_of(), None, [epoch_of(1)])
    with pytest.raises(NotOurWeights, match="holds no whole history"):
        load_training_state(last, mine, optimizer, np.zeros(9, np.int64))
    assert same(dict(mine.state_dict()), before)


def test_a_parent_s_last_and_best_both_give_their_weights(saved: Path, tmp_path: Path) -> None:
    """The next stage starts from either file; what else is in it is left aside."""
    last = tmp_path / "last.safetensors"
    save_training_state(last, network_of(seed=4), None, [epoch_of(1)])
    for path, seed in ((saved, 0), (last, 4)):
        network = network_of(seed=9)
        load_network_weights(path, network)
        assert same(dict(network.state_dict()), dict(network_of(seed).state_dict()))
