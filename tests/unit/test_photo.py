"""Reading one photo: every odd format becomes 8-bit RGB, the right way up."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from trainers.data.photo import is_photo_name, photo_size, read_photo, reduction_of
from trainers.errors import UnreadablePhoto

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    """Read a photo to an array, and check what holds for all of them."""
    rgb = read_photo(path)
    assert rgb.mode == "RGB"
    assert rgb.info == {}
    return np.asarray(rgb)


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    """Save an image under a name."""
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "ppm", "tga", "webp", "jp2", "dib"])
def test_lossless_formats_keep_every_value(tmp_path: Path, ending: str) -> None:
    """A photo saved without loss is read back bit for bit, also under an upper-case ending."""
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path, f"photo.{ending}", Image.fromarray(NOISE), **options)
    assert (read(path) == NOISE).all()
    assert (read(path.rename(tmp_path / f"PHOTO.{ending.upper()}")) == NOISE).all()


def test_contents_count_not_the_ending(tmp_path: Path) -> None:
    """A PNG that is named .jpg is read as what it is."""
    path = saved(tmp_path, "photo.png", Image.fromarray(NOISE)).rename(tmp_path / "photo.jpg")
    assert (read(path) == NOISE).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, ending: str) -> None:
    """16-bit grey 0..65535 becomes value / 257, rounded."""
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    grey[-1, -1] = 65535
    values = read(saved(tmp_path, f"deep.{ending}", Image.fromarray(grey)))
    assert (values == np.rint(grey / 257).astype(np.uint8)[..., None]).all()


def test_big_endian_16_bit_tiff_and_pgm(tmp_path: Path) -> None:
    """The byte order of 16-bit grey does not matter, nor that a PGM opens as 32-bit."""
    grey = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    image = Image.frombytes("I;16B", (4, 1), grey.astype(">u2").tobytes())
    (tmp_path / "deep.pgm").write_bytes(b"P5 4 1 65535\n" + grey.astype(">u2").tobytes())
    for path in (saved(tmp_path, "deep.tif", image), tmp_path / "deep.pgm"):
        assert read(path)[0, :, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.4, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 3.0], [0, 64, 255]),
        ([np.nan, np.inf, 1.0], [0, 0, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_float_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    """Floats are scaled from the smallest usual range that holds them, else stretched."""
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert read(saved(tmp_path, "float.tif", image))[0, :, 0].tolist() == expected


def test_bilevel_and_grey(tmp_path: Path) -> None:
    """Mode 1 becomes black and white, mode L the same grey in all channels."""
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read(saved(tmp_path, "bits.png", bits)).tolist() == [[[0] * 3, [255] * 3]]
    grey = Image.fromarray(np.array([[7, 200]], dtype=np.uint8))
    assert read(saved(tmp_path, "grey.png", grey)).tolist() == [[[7] * 3, [200] * 3]]


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    """RGBA, LA and grey or RGB with a transparent colour are composited on white."""
    rgba = Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], dtype=np.uint8))
    assert read(saved(tmp_path, "rgba.png", rgba)).tolist() == [[[255] * 3, [255, 0, 0]]]
    la = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert read(saved(tmp_path, "la.png", la)).tolist() == [[[204] * 3]]
    grey = Image.fromarray(np.array([[7, 8]], dtype=np.uint8))
    path = saved(tmp_path, "grey.png", grey, transparency=7)
    assert read(path).tolist() == [[[255] * 3, [8] * 3]]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    path = saved(tmp_path, "rgb.png", rgb, transparency=(1, 2, 3))
    assert read(path).tolist() == [[[255] * 3, [4, 5, 6]]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_and_without_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    """Palette colours are looked up, and transparent ones become white, without a warning."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert read(saved(tmp_path, "p.png", image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clear = read(saved(tmp_path, "pt.png", image, transparency=transparency))
    assert clear.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_cmyk_jpeg_and_tiff(tmp_path: Path) -> None:
    """CMYK is converted, and not read inverted from a JPEG."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert np.abs(read(saved(tmp_path, name, red)).astype(int) - [255, 0, 0]).max() <= 3


def test_ycbcr_and_lab_tiff(tmp_path: Path) -> None:
    """YCbCr and LAB are converted to the colours that they mean."""
    colour = Image.new("RGB", (8, 8), (200, 100, 50))
    paths = [saved(tmp_path, "ycbcr.tif", colour.convert("YCbCr"))]
    lab = ImageCms.profileToProfile(
        colour, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    paths.append(saved(tmp_path, "lab.tif", lab))
    for path in paths:
        assert np.abs(read(path).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    """All eight orientations, in each format that has them, give what Pillow's own turn gives."""
    image = Image.new("RGB", (48, 32), "white")
    image.paste((255, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, f"turned.{ending}", image, exif=exif)
    with Image.open(path) as raw:
        expected = np.asarray(ImageOps.exif_transpose(raw).convert("RGB"))
    values = read(path)
    assert values.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    assert (values == expected).all()
    assert (values[:16, :16, 1].mean() < 40) == (orientation in (1, 5))


def test_broken_exif_does_no_harm(tmp_path: Path) -> None:
    """A photo whose EXIF is rubbish is read as if it had none."""
    path = saved(tmp_path, "a.png", Image.fromarray(NOISE), exif=b"Exif\0\0rubbish, not a TIFF")
    assert (read(path) == NOISE).all()


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_animations_give_their_first_frame(tmp_path: Path, ending: str) -> None:
    """Of several frames or pages, the first one counts."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(
        tmp_path, f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **options
    )
    assert (read(path) == [255, 0, 0]).all()


def test_progressive_jpeg(tmp_path: Path) -> None:
    """A progressive JPEG gives the pixels that Pillow gives."""
    path = saved(tmp_path, "a.jpg", Image.fromarray(NOISE), progressive=True)
    with Image.open(path) as raw:
        assert (read(path) == np.asarray(raw)).all()


def test_phone_photo_with_two_frames(tmp_path: Path) -> None:
    """An MPO, a JPEG with a second one behind it, is read as a JPEG."""
    image = Image.fromarray(NOISE)
    path = saved(tmp_path, "a.mpo", image, save_all=True, append_images=[image])
    assert read(path.rename(tmp_path / "a.jpg")).shape == NOISE.shape


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "b.c.PnG", "x.jfif", "é ü.tIf", "a.webp"])
def test_names_of_photos(name: str) -> None:
    """Endings count in any case."""
    assert is_photo_name(name)


@pytest.mark.parametrize("name", ["jpg", ".jpg", "a.txt", "a.jpg.txt", "Thumbs.db", "a.", "a.eps"])
def test_names_of_other_files(name: str) -> None:
    """Files without one of the endings are no photos."""
    assert not is_photo_name(name)


@pytest.mark.parametrize(
    ("side", "asked", "reduction"),
    [
        *((64, asked, 8) for asked in (1, 8)),
        *((64, asked, 4) for asked in (9, 16)),
        *((64, asked, 1) for asked in (33, 64, 500)),
        *((63, 8, 4), (63, 16, 2), (64, 32, 2), (63, 32, 1), (1, 1, 1), (3, 1, 2), (3, 2, 1)),
    ],
)
def test_how_far_a_jpeg_may_be_reduced(
    tmp_path: Path, side: int, asked: int, reduction: int
) -> None:
    """The most of 1, 2, 4 and 8 that leaves the asked pixels on the shorter side; 1 if none do."""
    for name, size in (("wide.jpg", (200, side)), ("tall.jpg", (side, 200))):
        path = saved(tmp_path, name, Image.new("RGB", size))
        assert reduction_of(path, asked) == reduction
        assert min(read_photo(path, reduction).size) >= min(side, asked)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "gif", "jp2"])
def test_other_formats_are_not_reduced(tmp_path: Path, ending: str) -> None:
    """Only a JPEG can be made smaller while it is decoded, whatever the file is called."""
    path = saved(tmp_path, f"a.{ending}", Image.new("RGB", (64, 64)))
    assert reduction_of(path.rename(tmp_path / "a.jpg"), 8) == 1
    assert read_photo(tmp_path / "a.jpg", 8).size == (64, 64)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_reduced_jpegs(tmp_path: Path, reduction: int, mode: str) -> None:
    """Each side is divided, rounded up, and each pixel is the mean of those it stands for."""
    smooth = Image.radial_gradient("L").resize((101, 75)).convert("RGB")
    path = saved(tmp_path, "a.jpg", smooth.convert(mode), quality=95)
    found = read_photo(path, reduction)
    assert (found.mode, found.size) == ("RGB", (-(-101 // reduction), -(-75 // reduction)))
    with Image.open(path) as raw:
        whole = np.asarray(raw.convert("RGB"))
    high, wide = 75 // reduction, 101 // reduction
    blocks = whole[: high * reduction, : wide * reduction].reshape(
        high, reduction, wide, reduction, 3
    )
    difference = np.asarray(found)[:high, :wide] - blocks.mean((1, 3))
    assert np.abs(difference).mean() < (1 if reduction > 1 else 1e-9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_photos_are_turned(tmp_path: Path, orientation: int) -> None:
    """A reduced JPEG is turned as its EXIF says, and its size is given before the turn."""
    image = Image.new("RGB", (96, 64), "white")
    image.paste((255, 0, 0), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, "turned.jpg", image, exif=exif)
    assert photo_size(path) == (96, 64)
    assert reduction_of(path, 16) == 4
    whole = np.asarray(read_photo(path).reduce(4)).astype(int)
    reduced = np.asarray(read_photo(path, 4))
    assert reduced.shape == ((24, 16, 3) if orientation >= 5 else (16, 24, 3))
    assert np.abs(reduced - whole).mean() < 2


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (7, 7)])
def test_tiny_jpegs_are_reduced_to_something(tmp_path: Path, size: tuple[int, int]) -> None:
    """A photo smaller than its reduction still gives a pixel."""
    assert min(read_photo(saved(tmp_path, "a.jpg", Image.new("RGB", size)), 8).size) >= 1


def test_a_phone_photo_with_two_frames_is_reduced(tmp_path: Path) -> None:
    """An MPO is reduced as the JPEG it begins with."""
    image = Image.radial_gradient("L").resize((80, 64)).convert("RGB")
    path = saved(tmp_path, "a.mpo", image, save_all=True, append_images=[image])
    assert reduction_of(path.rename(tmp_path / "a.jpg"), 16) == 4
    assert read_photo(tmp_path / "a.jpg", 4).size == (20, 16)


@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_half_a_jpeg_is_refused_at_any_size(tmp_path: Path, reduction: int) -> None:
    """Truncation is found in reduced decoding too; a file without a header has no reduction."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, "a.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadablePhoto, match="truncated"):
        read_photo(path, reduction)
    path.write_bytes(b"no photo at all")
    for read_header in (photo_size, lambda path: reduction_of(path, 8)):
        with pytest.raises(UnreadablePhoto, match="not an image"):
            read_header(path)
