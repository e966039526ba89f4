"""A search by the command line over two classes of tiny photos, with names of the test's choice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

SETTINGS = """
backbone = "test_resnet"
weights = "random"
portfolio = false
[space]
n_stages = [1]
image_size = [32]
batch_size = [8]
lrs = [0.01, 0.02]
cycle_len = [1]
"""


def search_in(folder: Path, classes: tuple[str, str], suffix: str, trials: int) -> Path:
    """Search over a dozen photos and a dozen to validate, named by number and `suffix`."""
    rng = np.random.default_rng(0)
    for index in range(24):
        split, name = ("train" if index < 12 else "valid"), classes[index % 2]
        pixels = rng.normal((150, 100)[index % 2], 50, (40, 50, 3)).clip(0, 255)
        path = folder / "photos" / split / name / f"{index}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "study.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["search", "--data", "photos", "--trials", str(trials)]) == 0
    return folder


def copy_of(searched: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy what was searched to a new place, and go there."""
    shutil.copytree(searched, place)
    monkeypatch.chdir(place)
    return place
