"""Features of photos from the packaged backbone."""

import numpy as np
import torch
from PIL import Image, ImageOps

from tests.scenes import as_jpeg, scene
from trainers.embedding import embed


def test_features_are_unit_rows_that_tell_copies_from_strangers() -> None:
    """Copies of a photo, mirrored ones too, are nearer to it than any other of 20 photos."""
    photos = [scene(number) for number in range(20)]
    copies = [as_jpeg(photos[0], 50), ImageOps.mirror(photos[0])]
    told: list[tuple[int, int]] = []
    pixels = [np.asarray(each) for each in (*photos, *copies)]
    rows = embed(iter(pixels), len(pixels), lambda *of: told.append(of))
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert told[-1] == (22, 22)
    cosines = rows @ rows[0]
    assert cosines[20:].min() > cosines[1:20].max()


def test_features_depend_on_the_photo_alone() -> None:
    """Whatever was shown before and besides, and of whatever size, a photo's features are equal."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    small, wide = np.asarray(scene(1, 40, 60)), np.asarray(scene(2, 300, 100))
    once = embed([small, wide], 2)
    again = embed([np.asarray(scene(number)) for number in range(3, 19)] + [wide, small], 18)
    assert np.allclose(once, again[[17, 16]], atol=1e-5)
    assert torch.equal(before, torch.get_rng_state())


def test_grey_is_no_special_case() -> None:
    """A photo of one colour has features too."""
    white = np.asarray(Image.new("RGB", (50, 50), "white"))
    assert np.isfinite(embed([white], 1)).all()
