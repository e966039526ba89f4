"""Random changes of photos: drawn by place alone, and exact where mathematics allows it."""

import math
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.data import augment
from trainers.data.augment import (
    GOOGLENET_AREA,
    GOOGLENET_ASPECT,
    LIGHTING,
    ROTATION_DEGREES,
    ROTATION_SHARE,
    Changes,
    apply_changes,
    draw_changes,
    draw_numbers,
    draw_order,
)
from trainers.data.scale import training_scale
from trainers.schedule import Augmentation, CropType, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

PLACE = {"seed": 3, "position": 1, "epoch": 2}
CPU = torch.device("cpu")


def stage(crop: CropType, augmentation: Augmentation = Augmentation.NONE, zoom: float = 1) -> Stage:
    """Return a stage of 32 pixels."""
    return Stage(image_size=32, batch_size=8, crop=crop, augmentation=augmentation, max_zoom=zoom)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """Make a photo (H, W, 3) in which neighbours have nothing in common."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def kept(mine: Stage, photo: Tensor) -> Tensor:
    """Return a photo at the scale at which its stage takes it."""
    return torch.from_numpy(np.array(training_scale(mine).fit(Image.fromarray(photo.numpy()))))


def drawn(mine: Stage, width: int, height: int, count: int = 2000) -> Changes:
    """Draw changes of many photos of one size."""
    sizes = np.tile([height, width], (count, 1))
    return draw_changes(mine, sizes, draw_numbers(mine, count, **PLACE))


def angles(changes: Changes) -> NDArray[np.float64]:
    """Return the turns in degrees, quarter turns included; mirroring does not count."""
    linear = changes.matrix[:, :, :2].copy()
    linear[np.linalg.det(linear) < 0, :, 0] *= -1
    return np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))


def geometry(changes: Changes, rows: NDArray[np.bool_] | slice = slice(None)) -> Changes:
    """Leave out the lighting."""
    matrix = changes.matrix[rows]
    return Changes(matrix, np.zeros(len(matrix)), np.ones(len(matrix)))


def levels(squares: Tensor) -> Tensor:
    """Return squares as photos would be stored: (n, H, W, 3)."""
    return (squares * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_the_order_is_a_permutation_that_its_place_decides() -> None:
    """Each photo comes once; seed, stage and epoch each give another order, and nothing else."""
    places = [dict(zip(PLACE, place, strict=True)) for place in product(range(3), repeat=3)]
    orders = [draw_order(50, **place) for place in places]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 27
    np.random.seed(1)
    torch.manual_seed(1)
    again = [draw_order(50, **place) for place in reversed(places)]
    assert all((a == b).all() for a, b in zip(again[::-1], orders, strict=True))


@pytest.mark.parametrize("crop", CropType)
def test_the_numbers_of_a_photo_depend_on_its_place_alone(crop: CropType) -> None:
    """Row i is the same however many photos there are, and each place has numbers of its own."""
    mine = stage(crop)
    many = draw_numbers(mine, 100, **PLACE)
    for count in (1, 2, 37):
        assert (draw_numbers(mine, count, **PLACE) == many[:count]).all()
    places = [dict(zip(PLACE, place, strict=True)) for place in product(range(3), repeat=3)]
    everywhere = np.stack([draw_numbers(mine, 10, **place) for place in places])
    assert len(np.unique(everywhere)) > 0.99 * everywhere.size
    assert 0 <= everywhere.min() <= everywhere.max() < 1


@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_the_changes_of_a_photo_do_not_depend_on_the_others(
    crop: CropType, augmentation: Augmentation
) -> None:
    """Any rows in any order give to the last bit what they give among all."""
    mine = stage(crop, augmentation, zoom=1.3)
    sizes = np.random.default_rng(0).integers(1, 90, (40, 2))
    numbers = draw_numbers(mine, 40, **PLACE)
    every = draw_changes(mine, sizes, numbers)
    for rows in (np.array([7]), np.array([39, 0, 12]), np.arange(40)[::-1]):
        some = draw_changes(mine, sizes[rows], numbers[rows])
        assert (some.matrix == every.matrix[rows]).all()
        assert (some.brightness == every.brightness[rows]).all()
        assert (some.contrast == every.contrast[rows]).all()


@pytest.mark.parametrize("augmentation", [Augmentation.SIDE_ON, Augmentation.TOP_DOWN])
def test_augmentation_draws_within_its_bounds(augmentation: Augmentation) -> None:
    """A quarter stays upright; angles and lighting fill their bounds evenly on both sides."""
    changes = drawn(stage(CropType.CENTER, augmentation), 50, 50)
    degrees = (angles(changes) + 45) % 90 - 45
    upright = np.abs(degrees) < 1e-9
    assert upright.mean() == pytest.approx(1 - ROTATION_SHARE, abs=0.04)
    turned = degrees[~upright] / ROTATION_DEGREES
    shift = np.log(changes.contrast) / math.log(1 + LIGHTING)
    for values in (turned, changes.brightness / LIGHTING, shift):
        assert 0.99 < values.max() <= 1
        assert -1 <= values.min() < -0.99
        assert values.mean() == pytest.approx(0, abs=0.05)
        assert np.abs(values).mean() == pytest.approx(0.5, abs=0.05)


def test_what_is_drawn_for_one_thing_tells_nothing_of_another() -> None:
    """Zoom, place, angle, lighting and mirroring of a photo are drawn apart."""
    mine = stage(CropType.RANDOM, Augmentation.SIDE_ON, zoom=2)
    changes = drawn(mine, 50, 50)
    linear, centre = changes.matrix[:, :, :2], changes.matrix[:, :, 2]
    mirrored = np.linalg.det(linear) < 0
    half = np.linalg.norm(linear[:, 0], axis=1)
    spare = np.maximum(25 - half, 1e-9)
    angle = np.arctan2(-linear[:, 0, 1], linear[:, 1, 1])
    x, y = ((centre - 25) / spare[:, None]).T
    numbers = [1 / half, x, y, angle, changes.brightness, changes.contrast, mirrored]
    correlations = np.corrcoef(np.stack(numbers)) - np.eye(len(numbers))
    assert np.abs(correlations).max() < 0.1


def test_without_augmentation_nothing_but_the_window_changes() -> None:
    """NONE neither turns nor mirrors nor lights a photo."""
    for crop in CropType:
        changes = drawn(stage(crop), 50, 40, 20)
        assert (changes.matrix[:, [0, 1], [1, 0]] == 0).all()
        assert (changes.matrix[:, [0, 1], [0, 1]] > 0).all()
        assert (changes.brightness == 0).all()
        assert (changes.contrast == 1).all()


@pytest.mark.parametrize(("width", "height"), [(50, 40), (40, 50), (1000, 9)])
@pytest.mark.parametrize("crop", [CropType.CENTER, CropType.RANDOM])
def test_zoom(crop: CropType, width: int, height: int) -> None:
    """A window's side is the short side over 1 to max_zoom; CENTER centres it, RANDOM does not."""
    matrix = drawn(stage(crop, zoom=1.5), width, height).matrix
    sides = 2 * matrix[:, 0, 0] / min(width, height)
    assert (matrix[:, 0, 0] == matrix[:, 1, 1]).all()
    assert 1 / 1.5 <= sides.min() < 0.67
    assert 0.99 < sides.max() <= 1
    for centre, side in ((matrix[:, 0, 2], width), (matrix[:, 1, 2], height)):
        spare = side - 2 * matrix[:, 0, 0]
        share = (centre - matrix[:, 0, 0])[spare > 1] / spare[spare > 1]
        if crop is CropType.CENTER:
            assert (centre == side / 2).all()
        else:
            assert share.min() < 0.02
            assert share.max() > 0.98
            assert share.mean() == pytest.approx(0.5, abs=0.03)


def test_no_crop_shows_the_whole_photo() -> None:
    """NO always squeezes all of a photo into the square, whatever the zoom."""
    matrix = drawn(stage(CropType.NO, zoom=2), 50, 40, 10).matrix
    assert (matrix == [[25, 0, 25], [0, 20, 20]]).all()


def test_googlenet_windows_have_the_area_and_aspect_ratio_of_the_paper() -> None:
    """Each has 8 to 100 % of the area and a ratio of 3:4 to 4:3, lies anywhere, in both shapes."""
    width, height = 300, 280
    matrix = drawn(stage(CropType.GOOGLENET), width, height).matrix
    wide, high = 2 * matrix[:, 0, 0], 2 * matrix[:, 1, 1]
    areas, aspects = wide * high / (width * height), np.log(wide / high)
    assert GOOGLENET_AREA[0] <= areas.min() < 0.1
    assert 0.9 < areas.max() <= GOOGLENET_AREA[1] + 1e-9
    assert math.log(GOOGLENET_ASPECT[0]) <= aspects.min() + 1e-9 < math.log(0.77)
    assert math.log(1.3) < aspects.max() <= math.log(GOOGLENET_ASPECT[1]) + 1e-9
    assert aspects.mean() == pytest.approx(0, abs=0.02)
    assert (matrix[:, 0, 2] - wide / 2).min() < 1
    assert (matrix[:, 1, 2] + high / 2).max() > height - 1


def test_googlenet_falls_back_to_the_square() -> None:
    """A strip too narrow for any such window gives squares of its whole height, anywhere."""
    matrix = drawn(stage(CropType.GOOGLENET), 1000, 9).matrix
    assert (matrix[:, 0, 0] == 4.5).all()
    assert (matrix[:, 1] == [0, 4.5, 4.5]).all()
    assert matrix[:, 0, 2].min() < 10
    assert matrix[:, 0, 2].max() > 990


@pytest.mark.parametrize("crop", [CropType.CENTER, CropType.RANDOM, CropType.NO])
def test_a_square_photo_at_its_own_size_is_reproduced(crop: CropType) -> None:
    """What need not change comes out as it went in, even if it is noise."""
    photo, mine = noise(32, 32), stage(crop)
    found = apply_changes([photo], drawn(mine, 32, 32, 1), mine, CPU)
    assert torch.equal(levels(found)[0], photo)
    assert (found[0].permute(1, 2, 0) - photo / 255).abs().max() < 1e-4


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 50), (400, 32)])
def test_a_centre_crop_is_exact(width: int, height: int) -> None:
    """The square in the middle of a wide or a tall photo is cut out pixel by pixel."""
    photo, mine = noise(height, width), stage(CropType.CENTER)
    left, top = (width - 32) // 2, (height - 32) // 2
    found = levels(apply_changes([photo], drawn(mine, width, height, 1), mine, CPU))[0]
    assert torch.equal(found, photo[top : top + 32, left : left + 32])


@pytest.mark.parametrize(
    ("augmentation", "ways"), [(Augmentation.SIDE_ON, 2), (Augmentation.TOP_DOWN, 8)]
)
def test_mirrors_and_quarter_turns_are_exact(augmentation: Augmentation, ways: int) -> None:
    """Photos that are not rotated come in two or all eight ways, equally often, unblurred."""
    mine, photo = stage(CropType.CENTER, augmentation), noise(32, 32)
    turned = [photo.rot90(quarters) for quarters in range(4 if ways == 8 else 1)]
    expected = [way for one in turned for way in (one, one.flip(1))]
    changes = drawn(mine, 32, 32, 1200)
    upright = np.abs((angles(changes) + 45) % 90 - 45) < 1e-9
    plain = geometry(changes, upright)
    found = levels(apply_changes([photo] * upright.sum(), plain, mine, CPU))
    counts = Counter(
        next(i for i, way in enumerate(expected) if torch.equal(square, way)) for square in found
    )
    assert len(counts) == ways
    assert min(counts.values()) > 0.5 * upright.sum() / ways


@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_photos_come_out_the_same_alone_and_in_any_company(
    crop: CropType, augmentation: Augmentation
) -> None:
    """Batches of photos of all sizes give to the last bit what each photo gives by itself."""
    mine = stage(crop, augmentation, zoom=1.3)
    shapes = [(32, 40), (42, 90), (7, 5), (1, 1)]
    photos = [kept(mine, noise(*shape, seed)) for seed, shape in enumerate(shapes)]
    sizes = np.array([photo.shape[:2] for photo in photos])
    numbers = draw_numbers(mine, len(photos), **PLACE)

    def changed(rows: list[int]) -> Tensor:
        changes = draw_changes(mine, sizes[rows], numbers[rows])
        return apply_changes([photos[row] for row in rows], changes, mine, CPU)

    together = changed([0, 1, 2, 3])
    assert together.shape == (4, 3, 32, 32)
    assert together.dtype == torch.float32
    assert together.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(changed([3, 1, 0]), together[[3, 1, 0]])
    for row in range(4):
        assert torch.equal(changed([row])[0], together[row])


def test_lighting() -> None:
    """Contrast stretches around the mean of the square, brightness shifts, both within 0..1."""
    mine, photo = stage(CropType.CENTER, Augmentation.SIDE_ON), noise(32, 32)
    matrix = np.array([[[16.0, 0, 16], [0, 16, 16]]] * 3)
    changes = Changes(matrix, np.array([0.0, 0.04, 0.5]), np.array([1.0, 0.95, 3.0]))
    plain, lit, bright = apply_changes([photo] * 3, changes, mine, CPU)
    expected = (plain - plain.mean()) * 0.95 + plain.mean() + 0.04
    assert (lit - expected.clamp(0, 1)).abs().max() < 1e-6
    assert (bright.min(), bright.max()) == (0, 1)


@pytest.mark.parametrize("augmentation", Augmentation)
@pytest.mark.parametrize("crop", CropType)
def test_nothing_beside_a_photo_is_seen(crop: CropType, augmentation: Augmentation) -> None:
    """Tiny photos, strips and panoramas of one colour give squares of just that colour."""
    mine = stage(crop, augmentation, zoom=1.3)
    for height, width in ((1, 1), (3, 50), (50, 3), (1, 300), (42, 2000), (9, 9), (64, 64)):
        photo = kept(mine, torch.full((height, width, 3), 200, dtype=torch.uint8))
        changes = geometry(drawn(mine, photo.shape[1], photo.shape[0], 20))
        found = apply_changes([photo] * 20, changes, mine, CPU)
        assert (found * 255 - 200).abs().max() < 0.05


def test_lit_photos_stay_within_their_bounds() -> None:
    """Photos of black and white, lit at random, keep to 0..1 and reach both ends."""
    mine = stage(CropType.GOOGLENET, Augmentation.TOP_DOWN)
    photo = noise(64, 70) // 128 * 255
    found = apply_changes([photo] * 50, drawn(mine, 70, 64, 50), mine, CPU)
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_one_gather_makes_the_same_canvas_as_copies(seed: int) -> None:
    """Of photos of any size in one memory, windows that end beyond them and empty ones too."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, (6, 2))
    memory = torch.from_numpy(rng.integers(0, 256, 3 * sizes.prod(1).sum(), dtype=np.uint8))
    ends = (3 * sizes.prod(1)).cumsum()
    parts = memory.tensor_split(torch.from_numpy(ends[:-1]))
    photos = [part.view(*size, 3) for part, size in zip(parts, sizes.tolist(), strict=True)]
    corners = rng.integers(0, 45, (6, 2))
    until = corners + rng.integers(0, 20, (6, 2))
    corners[0], until[0] = 0, 20
    copied = augment._canvas(photos, corners, until, 20)
    assert copied.any()
    assert torch.equal(augment._gathered(photos, corners, until, 20), copied)


class Launches(TorchDispatchMode):
    """Counts operations, each of which a GPU's host would launch."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one."""
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augmentation", [Augmentation.NONE, Augmentation.TOP_DOWN])
def test_a_batch_on_a_device_takes_as_many_launches_whatever_its_size(
    augmentation: Augmentation,
) -> None:
    """Not one for each photo, on which a GPU would wait. A device without any memory plays one."""
    mine, counts = stage(CropType.GOOGLENET, augmentation), []
    memory = torch.empty(64 * 3 * 40 * 50, dtype=torch.uint8, device="meta")
    for count in (4, 64):
        photos = [part.view(40, 50, 3) for part in memory.tensor_split(64)[:count]]
        with Launches() as launches:
            squares = apply_changes(photos, drawn(mine, 50, 40, count), mine, memory.device)
        assert squares.shape == (count, 3, 32, 32)
        counts.append(launches.count)
    assert counts[0] == counts[1]
