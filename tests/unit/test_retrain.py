"""How weights that were made again are compared, and under which settings they are made."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.provenance.retrain import (
    Compared,
    compare_files,
    compare_tensors,
    settings_as_made,
    with_data,
    workplace,
)
from trainers.base import Precision

GPU = {"device": "NVIDIA H200, bf16", "deterministic": "yes"}


def network(**others: Tensor) -> dict[str, Tensor]:
    """Return some tensors of the kinds that a network has."""
    return {"w": torch.tensor([[0.0, 1.0]]), "n": torch.tensor(3), **others}


def test_the_same_bits_are_identical() -> None:
    """Also where numbers are none, of no dimension, or empty."""
    odd = {"nan": torch.tensor([math.nan]), "none": torch.zeros(0)}
    assert compare_tensors(network(**odd), network(**odd)) == Compared(True, 0.0)


@pytest.mark.parametrize(
    ("other", "largest"),
    [
        (network(w=torch.tensor([[0.0, 1.25]])), 0.25),
        (network(n=torch.tensor(5)), 2.0),
        (network(w=torch.tensor([[-0.0, 1.0]])), 0.0),
        (network(w=torch.tensor([[0.0, math.inf]])), None),
        (network(w=torch.tensor([[0.0, math.nan]])), None),
        (network(w=torch.zeros(2)), None),
        (network(w=torch.tensor([[0.0, 1.0]], dtype=torch.float64)), None),
        (network(more=torch.zeros(1)), None),
    ],
)
def test_other_bits_are_measured_where_they_can_be(
    other: dict[str, Tensor], largest: float | None
) -> None:
    """A zero of another sign is another bit; other names, shapes and kinds have no distance."""
    assert compare_tensors(network(), other) == Compared(False, largest)


def test_files_are_compared_by_what_they_are(tmp_path: Path) -> None:
    """A broken old file cannot be compared; files of a user's own format are, as a whole."""
    good, own, same, broken = (tmp_path / name for name in ("good", "own", "same", "broken"))
    save_file(network(), good)
    own.write_bytes(b"mine")
    same.write_bytes(b"mine")
    broken.write_bytes(good.read_bytes()[:-1])
    assert compare_files(good, good) == Compared(True, 0.0)
    assert compare_files(broken, good) is None
    assert compare_files(own, same) == Compared(True, 0.0)
    assert compare_files(good, own) == Compared(False, None)


def test_what_a_card_tells_counts() -> None:
    """The study may have been searched on another device, in another precision, since."""
    config = load_config(settings_of(devices="0,1", precision="fp16", compile=True))
    made = settings_as_made(config, GPU)
    assert (made.devices, made.precision) == ("auto", Precision.BF16)
    assert (made.compile, made.deterministic) == (False, True)
    assert settings_as_made(config, {"device": "cpu, fp32"}).devices == "cpu"
    assert settings_as_made(config, {}) == config


def test_a_device_that_is_asked_for_counts_most() -> None:
    """There the study's own precision holds: the card's may not be had on it."""
    made = settings_as_made(StudyConfig(), GPU, "cpu")
    assert (made.devices, made.precision) == ("cpu", Precision.AUTO)


@pytest.mark.parametrize("device", ["", "x", ", ", "cpu, abacus", "\x1b, fp32"])
def test_a_card_may_tell_anything(device: str) -> None:
    """A device or precision that is none leads to settings that are valid."""
    made = settings_as_made(StudyConfig(), {"device": device})
    assert StudyConfig.model_validate(made.model_dump(mode="json")) == made


def test_data_are_found_from_any_folder(tmp_path: Path) -> None:
    """A folder and a list are looked for where the photos were, if that is still there."""
    folder = with_data(load_config(settings_of(data="photos")), tmp_path)
    assert folder.data.source == str(tmp_path)
    listed = with_data(load_config(settings_of(data="lists/photos.csv")), tmp_path)
    assert listed.data.source == str(tmp_path / "photos.csv")
    rooted = with_data(load_config(settings_of(data="a/b.csv", data_root="x")), tmp_path)
    assert (rooted.data.source, rooted.data.root) == ("a/b.csv", str(tmp_path))
    for config in (StudyConfig(), load_config(settings_of(data="photos"))):
        assert with_data(config, tmp_path / "gone") == config


def test_what_a_killed_reproduction_left_is_swept(tmp_path: Path) -> None:
    """Its folder goes, and neither that of one that runs nor anything that is called alike."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".again-{dead.pid}-x"
    stays = [tmp_path / f".again-{os.getpid()}-x", tmp_path / ".again-mine", tmp_path / "roses"]
    for folder in (left, *stays):
        folder.mkdir()
        (folder / "last.safetensors").write_bytes(b"weights")
    with workplace(tmp_path) as own:
        assert sorted(tmp_path.iterdir()) == sorted([*stays, own])
    assert sorted(tmp_path.iterdir()) == sorted(stays)
