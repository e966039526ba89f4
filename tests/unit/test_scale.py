"""How large photos are kept, and that decoding a JPEG at a reduced size does them no harm."""

from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainers.data import scale as scale_module
from trainers.data.cache import wanted_by
from trainers.data.manifest import Split
from trainers.data.photo import read_photo, reduction_of
from trainers.data.scale import Scale, read_at, training_scale, validation_scale
from trainers.schedule import CropType, Stage, Train

KINDS = [(squeeze, cut) for squeeze in (False, True) for cut in (False, True)]
SIZES = [(90, 60), (60, 90), (64, 64), (61, 37), (20, 30), (500, 9), (9, 500), (1, 1), (3, 50)]


@cache
def scene(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make what a camera might see, RGB (H, W, 3): light that changes slowly, things, noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 2 * height, 0 : 2 * width] / (2 * min(width, height))
    slow = [np.sin(2 * x + y + 1), np.sin(3 * y - x), np.cos(x - 2 * y + 2)]
    image = Image.fromarray(np.rint(np.stack(slow, 2) * 70 + 120).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for index in range(8):
        colour = tuple(int(value) for value in random.integers(20, 236, 3))
        side = random.uniform(0.2, 0.9) * min(width, height)
        left, top = random.uniform(-side / 2, 2 * width), random.uniform(-side / 2, 2 * height)
        box = (left, top, left + side, top + side * random.uniform(0.5, 2))
        (draw.ellipse if index % 2 else draw.rectangle)(box, fill=colour)
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=float)
    return (small + random.normal(0, 3, small.shape)).clip(0, 255).round().astype(np.uint8)


def saved(folder: Path, pixels: NDArray[np.uint8], name: str = "a.jpg", **options: object) -> Path:
    """Save pixels as a photo."""
    Image.fromarray(pixels).save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference in levels of 255."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


def fully(path: Path, scale: Scale) -> NDArray[np.uint8]:
    """Return a photo as the scale fits it when it is decoded at its full size."""
    return np.asarray(scale.fit(read_photo(path)))


@pytest.mark.parametrize(("squeeze", "cut"), KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: tuple[int, int], squeeze: bool, cut: bool) -> None:
    """A fitted photo has the size its scale promises, and n_bytes says so before it is read."""
    scale, (width, height) = Scale(32, squeeze, cut), size
    fitted = scale.fit(Image.new("RGB", size))
    assert scale.n_bytes(width, height) == 3 * fitted.width * fitted.height
    assert scale.n_bytes(height, width) == scale.n_bytes(width, height)
    if cut:
        assert fitted.size == (32, 32)
    elif squeeze:
        assert fitted.size == (min(width, 32), min(height, 32))
    elif min(size) <= 32:
        assert fitted.size == size
    else:
        assert min(fitted.size) == 32
        assert max(fitted.size) == round(32 * max(size) / min(size))
        assert (fitted.width > fitted.height) == (width > height)


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_only_what_is_cut_is_enlarged(size: tuple[int, int], squeeze: bool) -> None:
    """Without a cut no side grows, and a photo that is small enough keeps every value."""
    pixels = scene(*size)
    fitted = Scale(32, squeeze, cut=False).fit(Image.fromarray(pixels))
    assert fitted.width <= size[0]
    assert fitted.height <= size[1]
    kept = Scale(500, squeeze, cut=False).fit(Image.fromarray(pixels))
    assert (np.asarray(kept) == pixels).all()


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (96, 64), (128, 192)])
def test_a_cut_is_the_middle_of_the_scaled_photo(size: tuple[int, int]) -> None:
    """The square is Pillow's antialiased resize with equal margins cut off."""
    image = Image.fromarray(scene(*size))
    whole = tuple(32 * side // min(size) for side in size)
    expected = np.asarray(image.resize(whole, Image.Resampling.BILINEAR))
    left, top = (whole[0] - 32) // 2, (whole[1] - 32) // 2
    found = np.asarray(Scale(32, squeeze=False, cut=True).fit(image))
    assert (found == expected[top : top + 32, left : left + 32]).all()


def test_a_squeezed_cut_shows_the_whole_photo() -> None:
    """Squeezed into the square, nothing of the photo is cut off: its four corners are there."""
    quarters = np.array([[50, 100], [150, 200]], np.uint8).repeat(20, 0).repeat(45, 1)
    image = Image.fromarray(quarters).convert("RGB")
    found = np.asarray(Scale(20, squeeze=True, cut=True).fit(image))[..., 0]
    assert [(found == level).sum() > 80 for level in (50, 100, 150, 200)] == [True] * 4
    assert found[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [50, 100, 150, 200]


@pytest.mark.parametrize("long_side", [1_000, 100_000])
def test_a_thin_strip_is_cut_from_its_middle(
    long_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strip of one pixel gives a square of what lies in its middle, and no huge photo before."""
    resize, sizes = Image.Image.resize, []

    def noting(image: Image.Image, size: tuple[int, int], *given: Any) -> Image.Image:
        sizes.append(size)
        return resize(image, size, *given)

    monkeypatch.setattr(Image.Image, "resize", noting)
    pixels = np.zeros((1, long_side, 3), np.uint8)
    pixels[:, long_side // 2 - 4 : long_side // 2 + 4] = 200
    for strip in (pixels, pixels.transpose(1, 0, 2)):
        found = np.asarray(Scale(32, squeeze=False, cut=True).fit(Image.fromarray(strip)))
        assert found.shape == (32, 32, 3)
        assert (found == 200).all()
    assert max(max(size) for size in sizes) <= 8 * 32


@pytest.mark.parametrize(("squeeze", "cut"), KINDS)
@pytest.mark.parametrize(
    ("size", "edge"), [((320, 240), 15), ((240, 320), 29), ((320, 160), 40), ((640, 480), 110)]
)
def test_reduced_decoding_is_as_good_as_full_decoding(
    tmp_path: Path, size: tuple[int, int], edge: int, squeeze: bool, cut: bool
) -> None:
    """A JPEG decoded at a reduced size differs by less than 2 of 255 levels from a whole one."""
    scale = Scale(edge, squeeze, cut)
    for quality in (75, 92):
        path = saved(tmp_path, scene(*size), quality=quality)
        assert reduction_of(path, 2 * edge) > 1
        assert distance(read_at(path, [scale])[0], fully(path, scale)) < 2


@pytest.mark.parametrize("size", [(333, 225), (259, 411), (319, 241)])
def test_reduced_decoding_of_sides_that_do_not_divide(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """A last column or row that is no whole one at the reduced size makes little difference."""
    path = saved(tmp_path, scene(*size), quality=92)
    for edge in (25, 28, 50):
        scale = Scale(edge, squeeze=True, cut=True)
        assert reduction_of(path, 2 * edge) > 1
        assert distance(read_at(path, [scale])[0], fully(path, scale)) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_of_a_turned_photo(tmp_path: Path, orientation: int) -> None:
    """A photo that its EXIF turns is upright, of the right shape and as good when reduced."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, scene(320, 240), quality=92, exif=exif)
    for scale in (Scale(48, squeeze=False, cut=False), Scale(48, squeeze=False, cut=True)):
        (found,) = read_at(path, [scale])
        assert distance(found, fully(path, scale)) < 2
        if not scale.cut:
            assert found.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))


def test_detail_is_left_to_filter(tmp_path: Path) -> None:
    """However far a JPEG is reduced, twice what the scale keeps is left."""
    for size in ((320, 240), (200, 333), (47, 64), (20, 30)):
        path = saved(tmp_path, scene(*size))
        for edge in (1, 5, 8, 15, 30, 60, 61, 200):
            left = min(read_photo(path, reduction_of(path, 2 * edge)).size)
            assert left >= min(2 * edge, min(size))


def test_several_scales_need_few_decodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo is decoded once for each reduction, and comes out as if each scale was alone."""
    path = saved(tmp_path, scene(320, 240))
    scales = [Scale(edge, False, cut) for edge in (15, 25, 30, 50, 100) for cut in (False, True)]
    alone = [read_at(path, [scale])[0] for scale in scales]
    reductions = []

    def counting(path: Path, reduction: int) -> Image.Image:
        reductions.append(reduction)
        return read_photo(path, reduction)

    monkeypatch.setattr(scale_module, "read_photo", counting)
    together = read_at(path, scales)
    assert sorted(reductions) == [1, 2, 4, 8]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("crop", CropType)
def test_scales_of_a_stage(crop: CropType) -> None:
    """Training keeps what the largest zoom enlarges, validation the square that is shown."""
    stage = Stage(image_size=30, batch_size=4, crop=crop, max_zoom=1.21)
    kept, shown = training_scale(stage), validation_scale(30, crop)
    edge = {CropType.NO: 30, CropType.GOOGLENET: 60}.get(crop, ceil(30 * 1.21))
    assert kept == Scale(edge, squeeze=crop is CropType.NO, cut=False)
    assert shown == Scale(30, squeeze=crop is CropType.NO, cut=True)


@pytest.mark.parametrize("crop", CropType)
def test_a_probe_sees_all_photos_as_validation_does(crop: CropType) -> None:
    """Nothing about them is random, so that no margin is kept of those it is fitted to."""
    probe = Stage(image_size=30, train=Train.PROBE, crop=crop)
    assert training_scale(probe) == validation_scale(30, crop)
    scale = validation_scale(30, crop)
    assert wanted_by([probe]) == [(Split.TRAIN, scale), (Split.VALID, scale)]
