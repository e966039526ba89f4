"""Fingerprints: what stands for all pixels, and what for the look of a photo."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.scenes import print_of, scene
from trainers.data.inspect.fingerprints import FEWEST_PIXELS, WINDOWS, dhash, fingerprint


def test_the_digest_is_that_of_size_and_pixels() -> None:
    """Equal pixels have equal digests; a changed level or another shape of the same bytes not."""
    pixels = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    changed = pixels.copy()
    changed[1, 2, 0] += 1
    digests = [
        fingerprint(each).sha256
        for each in (pixels, pixels.copy(), changed, pixels.reshape(3, 4, 3))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_pixels_may_lie_anywhere_in_memory() -> None:
    """A view into a larger array has the fingerprint of its copy."""
    pixels = np.asarray(scene(1))
    assert fingerprint(pixels[:, ::-1]).sha256 == fingerprint(pixels[:, ::-1].copy()).sha256


@pytest.mark.parametrize(
    "photo",
    [
        scene(1, FEWEST_PIXELS - 1, 200),
        Image.new("RGB", (200, 100), "white"),
        Image.fromarray(np.random.default_rng(0).integers(98, 103, (90, 120, 3), np.uint8)),
    ],
    ids=["small", "white", "noise"],
)
def test_what_shows_next_to_nothing_has_no_look(photo: Image.Image) -> None:
    """A photo that is tiny, or of one colour but for noise, is known by its pixels alone."""
    assert print_of(photo).look is None


def test_a_smallest_photo_has_a_look() -> None:
    """From the fewest pixels on, a photo has a hash for each window."""
    look = print_of(scene(1, FEWEST_PIXELS, FEWEST_PIXELS)).look
    assert look is not None
    assert look.hashes.shape == (WINDOWS,)
    assert look.hashes.dtype == np.uint64


def test_the_mirrored_hash_is_that_of_the_mirrored_photo() -> None:
    """Even where large parts are black, in which no side is brighter, it is the very hash."""
    photo = Image.new("RGB", (200, 160), "black")
    photo.paste(scene(3, 90, 70), (20, 60))
    look, turned = print_of(photo).look, print_of(ImageOps.mirror(photo)).look
    assert look is not None
    assert turned is not None
    assert look.mirrored == turned.hashes[0]
    assert look.mirrored != look.hashes[0]


def test_hashes_are_those_of_imagehash() -> None:
    """To the bit, as its `dhash` gave them for these scenes: stored looks can be compared."""
    hashes = (
        *(0x71F084C883662E2F, 0x01D99931D87AF1F4, 0x8B841841C3C706AE),
        *(0x1B03060521236532, 0x7B77F4BCCBDB5C31, 0xE131320F2F917031),
    )
    for number, stored in enumerate(hashes):
        bits = dhash(scene(number).convert("L"))
        assert int("".join(str(int(bit)) for bit in bits.ravel()), 2) == stored
