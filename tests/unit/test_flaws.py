"""Flawed photos are told from others, and what all photos of a set have is no flaw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.scenes import save, scene
from trainers.data.inspect.facts import Facts, facts_of
from trainers.data.inspect.findings import Flaw
from trainers.data.inspect.fingerprints import CHECK_SCALE
from trainers.data.inspect.flaws import find_flaws
from trainers.data.manifest import Photo
from trainers.data.scale import read_at
from trainers.data.sources import Split


def measured(path: Path) -> Facts:
    """Measure a file as the gate does."""
    return facts_of(path, path.stat().st_size, read_at(path, [CHECK_SCALE])[0])


def flaws(files: list[Path]) -> dict[str, list[Flaw]]:
    """Return the flaws by the names of the files."""
    photos = [Photo(file.name, 0, Split.TRAIN, "", 1) for file in files]
    found: dict[str, list[Flaw]] = {}
    for each in find_flaws(photos, [measured(file) for file in files]):
        found.setdefault(each.photo.path, []).append(each.flaw)
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write forty photos that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("good")
    return [save(scene(seed, 160, 120), folder / f"{seed}.jpg", quality=85) for seed in range(40)]


def test_nothing_is_found_in_good_photos(good: list[Path]) -> None:
    """Ordinary photos raise no alarm."""
    assert flaws(good) == {}


PLANTED = {
    Flaw.BLANK: Image.new("RGB", (160, 120), (200, 200, 201)),
    Flaw.BLURRED: scene(90, 160, 120).filter(ImageFilter.GaussianBlur(4)),
    Flaw.TINY: scene(91, 20, 15),
    Flaw.ODD_ASPECT: scene(92, 400, 100),
    Flaw.GREY: scene(93, 160, 120).convert("L"),
}


@pytest.mark.parametrize("flaw", PLANTED)
def test_a_planted_flaw_is_found_alone(flaw: Flaw, good: list[Path], tmp_path: Path) -> None:
    """Each kind of flaw is seen where it was planted, under its own name and no other."""
    planted = save(PLANTED[flaw], tmp_path / "planted.png")
    assert flaws([*good, planted]) == {"planted.png": [flaw]}


@pytest.mark.parametrize("flaw", [Flaw.BLURRED, Flaw.TINY, Flaw.ODD_ASPECT, Flaw.GREY])
def test_what_is_common_is_no_flaw(flaw: Flaw, tmp_path: Path) -> None:
    """A set of small, grey, long or soft photos is left in peace."""
    change = {
        Flaw.BLURRED: lambda seed: scene(seed, 160, 120).filter(ImageFilter.GaussianBlur(4)),
        Flaw.TINY: lambda seed: scene(seed, 20, 15),
        Flaw.ODD_ASPECT: lambda seed: scene(seed, 400, 100),
        Flaw.GREY: lambda seed: scene(seed, 160, 120).convert("L"),
    }[flaw]
    files = [save(change(seed), tmp_path / f"{seed}.png") for seed in range(20)]
    assert flaws(files) == {}


def test_a_soft_background_is_not_blurred(good: list[Path], tmp_path: Path) -> None:
    """A photo that is sharp in a quarter of it passes."""
    soft = scene(94, 160, 120).filter(ImageFilter.GaussianBlur(6))
    soft.paste(scene(95, 80, 60), (40, 30))
    assert flaws([*good, save(soft, tmp_path / "portrait.png")]) == {}


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    """Size and format come from the header, colour and contrast from the pixels."""
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:, 25:] = (255, 0, 0)
    found = measured(save(Image.fromarray(pixels), tmp_path / "half.png"))
    assert (found.width, found.height, found.format) == (50, 30, "PNG")
    assert found.colour == pytest.approx((127.5, 0, 0))
    assert found.contrast == pytest.approx(0.299 * 127.5, rel=1e-4)
    assert found.elongation == pytest.approx(5 / 3)
    assert not found.grey


def test_no_photos_have_no_flaws() -> None:
    """An empty set is no error."""
    assert find_flaws([], []) == ()
