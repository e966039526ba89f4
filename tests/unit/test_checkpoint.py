"""Weights files: what they say about themselves, what is refused, and that writes are whole."""

import errno
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.tiny_training import card_of, in_last, metrics_of, network_of, same, schedule
from trainers import checkpoint
from trainers.card import read_card
from trainers.checkpoint import (
    load_network_weights,
    read_weights,
    save_training_state,
    save_weights,
)
from trainers.errors import NotOurWeights
from trainers.schedule import Schedule

SCHEDULE = schedule()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the weights file of a tiny network of seed 0."""
    path = tmp_path / "best.safetensors"
    save_weights(path, network_of().state_dict(), card_of())
    return path


def put_card(path: Path, text: str | None) -> None:
    """Put another card into a weights file, or none."""
    metadata = None if text is None else {"format": "pt", "encore": text}
    safetensors.torch.save_file({"head.0.bias": torch.zeros(8)}, path, metadata)


def test_weights_come_back_as_they_were(saved: Path) -> None:
    """Every tensor to the last bit, also from memory laid out in another order."""
    tensors, _ = read_weights(saved)
    assert same(tensors, dict(network_of().state_dict()))
    other = network_of(seed=1).to(memory_format=torch.channels_last)
    save_weights(saved, other.state_dict(), card_of())
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
    """Return cards that are no card of this format, each wrong in one way."""
    plain = json.loads(json.dumps(card_of().__dict__))
    changes: dict[str, dict[str, Any]] = {
        "another format": {"format_version": "3"},
        "a class in the format of labels": {"format_version": "2"},
        "no format": {"format_version": None},
        "a huge head": {"hidden": [10**9]},
        "a head of text": {"hidden": "abc"},
        "too many levels": {"levels": 9},
        "a head of lists": {"hidden": [[8]]},
        "a head of floats": {"hidden": [8.0]},
        "a hub name": {"backbone": "hf-hub:x/y"},
        "a path": {"backbone": "../../etc/passwd"},
        "a number as name": {"backbone": 5},
        "a huge photo": {"image_size": 10**9},
        "a size of text": {"image_size": "24"},
        "an unknown crop": {"crop": "round"},
        "mirror images of text": {"tta": "yes"},
        "no classes": {"classes": []},
        "classes of numbers": {"classes": [1, 2]},
        "classes of one number": {"classes": 2},
        "a decision of text": {"decision": "roses"},
        "a decision for others": {"decision": {"costs": [[0]], "temperature": 1, "reject_cost": 0}},
        "made by a number": {"made_by": {"command": 5}},
        "a prior of text": {"prior": "alike"},
        "a prior of others": {"prior": [1.0]},
        "a prior of nothing": {"prior": [0.0] * len(plain["classes"])},
    }
    cards = {name: json.dumps({**plain, **change}) for name, change in changes.items()}
    # Older files have none of these.
    later = {
        "tta",
        "decision",
        "prior",
        "made_by",
        "unknown",
        "folds",
        "kind",
        "thresholds",
        "levels",
    }
    for field in (name for name in plain if name not in later):
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
            == "weights are of format 3, this Encore reads 2; upgrade encore-search"
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
    with pytest.raises(NotOurWeights, match="holds no Encore metadata; give one that Encore"):
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
        save_weights(saved, network_of(seed=1).state_dict(), card_of())
    with pytest.raises(OSError, match="No space left"):
        save_training_state(saved, in_last(network_of(seed=1)), [metrics_of(1)])
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_parent_s_last_and_best_both_give_their_weights(saved: Path, tmp_path: Path) -> None:
    """The next stage starts from either file; what else is in it is left aside."""
    last = tmp_path / "last.safetensors"
    best = network_of(seed=5).state_dict()
    save_training_state(last, in_last(network_of(seed=4)), [metrics_of(1)], best=best)
    for path, seed in ((saved, 0), (last, 4)):
        network = network_of(9)
        load_network_weights(path, network)
        assert same(dict(network.state_dict()), dict(network_of(seed).state_dict()))
