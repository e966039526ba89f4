"""The pictures of `explain`: a photo beside its heat map, with a caption; and a sheet of all."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from study.sanitizing import masked

SIDE = 320
"""Side of a photo in its own picture, in pixels."""

SHEET_SIDES = (176, 144, 112, 88, 64)
"""Sides on a sheet: the first is used for which the file is at most `MAX_BYTES`."""

MAX_BYTES = 4_000_000 - 1

_INFERNO = (
    *((0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84)),
    *((221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164)),
)
"""Every tenth colour of matplotlib's inferno (CC0).

Perceptually uniform, safe for colour blindness.
"""

_STRENGTH = 0.65
"""The opacity of the heat map; the photo is grey, so that its colours do not look like heat."""

_GAP, _INDENT, _MARGIN = 4, 2, 12
_INK, _FAINT, _ALARM, _PAPER = "#1a1a1a", "#5c5c5c", "#b33c00", "#ffffff"
_HEAD = 54
_MAX_TEXT = 200


@dataclass(frozen=True)
class Picture:
    """A square photo (S, S, 3) with its heat map (H, H) in 0..1, and its caption.

    The `verdict` is highlighted if it is `wrong`; `notes` follow it, a line each, shortened at the
    beginning where there is little room.
    """

    photo: NDArray[np.uint8]
    heat: NDArray[np.float32]
    verdict: str
    notes: tuple[str, ...]
    wrong: bool


def draw_picture(picture: Picture) -> bytes:
    """Draw one picture, as PNG: the photo left, the heat map over it right, the caption below."""
    return _png(_cell(picture, SIDE, 16))


def draw_sheet(pictures: Sequence[Picture], title: str) -> bytes:
    """Draw pictures in a grid under a title and the scale of the heat, as PNG below 4 MB."""
    for side in SHEET_SIDES:
        sheet = _sheet(pictures, title, side)
        if len(drawn := _png(sheet)) <= MAX_BYTES:
            return drawn
    # Photos of noise do not compress: the size must do for a byte a pixel.
    return _png(sheet.quantize(256))


def coloured(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colours of heat in 0..1, as RGB in 0..255 along a new last axis."""
    tenths = np.linspace(0, 1, len(_INFERNO))
    channels = np.array(_INFERNO, np.float32).T
    return np.stack([np.interp(heat, tenths, each) for each in channels], -1).astype(np.float32)


def _sheet(pictures: Sequence[Picture], title: str, side: int) -> Image.Image:
    cells = [_cell(picture, side, 13) for picture in pictures]
    columns = max(1, round(math.sqrt(0.7 * len(cells))))
    width, height = cells[0].width, max(cell.height for cell in cells)
    rows = math.ceil(len(cells) / columns)
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (height + _MARGIN) + _MARGIN + _HEAD)
    sheet = Image.new("RGB", size, _PAPER)
    _draw_head(sheet, title)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (width + _MARGIN)
        sheet.paste(cell, (left, _HEAD + _MARGIN + row * (height + _MARGIN)))
    return sheet


def _draw_head(sheet: Image.Image, title: str) -> None:
    pen, room = ImageDraw.Draw(sheet), sheet.width - 2 * _MARGIN
    pen.text((_MARGIN, 10), _shortened(title, 15, room), _INK, _font(15))
    ramp = coloured(np.linspace(0, 1, 100, dtype=np.float32))[None].repeat(12, axis=0)
    words = "says nothing", "says most"
    left = _MARGIN + math.ceil(_font(13).getlength(words[0])) + 6
    pen.text((_MARGIN, 36), words[0], _FAINT, _font(13))
    sheet.paste(Image.fromarray(ramp.round().astype(np.uint8)), (left, 38))
    pen.text((left + 106, 36), words[1], _FAINT, _font(13))


def _cell(picture: Picture, side: int, text_size: int) -> Image.Image:
    photo = Image.fromarray(picture.photo).resize((side, side), Image.Resampling.LANCZOS)
    width, line = 2 * side + _GAP, text_size + 4
    room = width - 2 * _INDENT
    ink = _ALARM if picture.wrong else _INK
    caption = [(text, ink) for text in _wrapped(picture.verdict, text_size, room)]
    caption += [(_shortened(note, text_size, room), _FAINT) for note in picture.notes]
    cell = Image.new("RGB", (width, side + line * len(caption) + 6), _PAPER)
    cell.paste(photo, (0, 0))
    cell.paste(heated(photo, picture.heat), (side + _GAP, 0))
    pen = ImageDraw.Draw(cell)
    for index, (text, colour) in enumerate(caption):
        pen.text((_INDENT, side + 3 + index * line), text, colour, _font(text_size))
    return cell


def heated(photo: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Return a photo in grey under its heat map (H, H) in 0..1, at the photo's size."""
    smooth = Image.fromarray(heat).resize(photo.size, Image.Resampling.BILINEAR)
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    mixed = _STRENGTH * coloured(np.asarray(smooth)) + (1 - _STRENGTH) * grey
    return Image.fromarray(mixed.round().astype(np.uint8))


def _wrapped(text: str, size: int, room: int) -> list[str]:
    """Break a text into two lines where it is too long for one."""
    words, first, font = masked(text)[: 2 * _MAX_TEXT].split(" "), 1, _font(size)
    while first < len(words) and font.getlength(" ".join(words[: first + 1])) <= room:
        first += 1
    lines = [" ".join(words[:first]), " ".join(words[first:])]
    return [_cut(each, size, room) for each in lines if each]


def _cut(text: str, size: int, room: int) -> str:
    """Leave out the end of a text that is too long."""
    text = text[:_MAX_TEXT]
    if _font(size).getlength(text) <= room:
        return text
    # By bisection, since captions of a hundred photos are measured.
    too_long = bisect_left(
        range(len(text)), True, key=lambda n: _font(size).getlength(text[:n] + "...") > room
    )
    return text[: max(0, too_long - 1)] + "..."


def _shortened(text: str, size: int, room: int) -> str:
    """Leave out the beginning of a text that is too long: the end of a path is more informative."""
    text = masked(text)[-_MAX_TEXT:]
    if _font(size).getlength(text) <= room:
        return text
    fits = bisect_left(
        range(len(text)), True, key=lambda n: _font(size).getlength("..." + text[n:]) <= room
    )
    return "..." + text[fits:]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return DejaVu Sans, which matplotlib includes: Pillow's own font has no umlauts."""
    found = find_spec("matplotlib")  # looked for, not imported
    for folder in (found and found.submodule_search_locations) or ():
        with suppress(OSError):
            path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
            return ImageFont.truetype(path, size - 1)  # it is a wide one
    return ImageFont.load_default(size)


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
