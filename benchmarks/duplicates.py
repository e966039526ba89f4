"""Whether duplicates are found, and nothing else; and what looking for them costs.

PYTHONPATH=. python benchmarks/duplicates.py quality --data PHOTOS [--half 0] [--sheet PNG]
PYTHONPATH=. python benchmarks/duplicates.py speed --data PHOTOS [--photos 10000]
PYTHONPATH=. python benchmarks/duplicates.py index
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from contestants import markdown, say
from memory import PeakMemory
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from trainers.data.cache import Cache
from trainers.data.inspect.duplicates import find_duplicates
from trainers.data.inspect.findings import Pair
from trainers.data.inspect.fingerprints import CHECK_SCALE, Fingerprint, fingerprint
from trainers.data.inspect.inspection import inspect_data
from trainers.data.inspect.neighbours import RADIUS, alike
from trainers.data.manifest import Photo, build_manifest
from trainers.data.photo import read_photo
from trainers.data.sources import Split
from trainers.embedding import embed

Draw = np.random.Generator
Pixels = NDArray[np.uint8]
Change = Callable[[Image.Image, Draw], Image.Image]


def _resized(photo: Image.Image, draw: Draw) -> Image.Image:
    share = draw.uniform(0.5, 0.75)
    size = (max(1, round(photo.width * share)), max(1, round(photo.height * share)))
    return photo.resize(size, Image.Resampling.LANCZOS)


def _recompressed(photo: Image.Image, draw: Draw) -> Image.Image:
    return _as_jpeg(photo, int(draw.integers(30, 61)))


def _cropped(photo: Image.Image, draw: Draw, share: float = 0.05) -> Image.Image:
    """Take a share off both sides, more or less of it at either end."""
    width, height = (round(side * (1 - share)) for side in photo.size)
    left = int(draw.integers(0, photo.width - width + 1))
    top = int(draw.integers(0, photo.height - height + 1))
    return photo.crop((left, top, left + width, top + height))


def _trimmed(photo: Image.Image, _: Draw) -> Image.Image:
    """Take 5 % off each of the four edges."""
    width, height = photo.size
    edges = 0.05 * width, 0.05 * height, 0.95 * width, 0.95 * height
    left, top, right, bottom = (round(edge) for edge in edges)
    return photo.crop((left, top, right, bottom))


def _mirrored(photo: Image.Image, _: Draw) -> Image.Image:
    return ImageOps.mirror(photo)


def _lit(low: float, high: float) -> Change:
    return lambda photo, draw: ImageEnhance.Brightness(photo).enhance(draw.uniform(low, high))


def _chain(*changes: Change) -> Change:
    def change(photo: Image.Image, draw: Draw) -> Image.Image:
        for each in changes:
            photo = each(photo, draw)
        return photo

    return change


_brightened, _darkened = _lit(1.2, 1.4), _lit(0.6, 0.8)

COPIES: dict[str, Change] = {
    "resized to 50 - 75 %": _resized,
    "recompressed, quality 30 - 60": _recompressed,
    "cropped by 5 % of both sides, anywhere": _cropped,
    "cropped by 5 % at each edge": _trimmed,
    "mirrored": _mirrored,
    "brightened by 20 - 40 %": _brightened,
    "darkened by 20 - 40 %": _darkened,
    "grey": lambda photo, _: ImageOps.grayscale(photo).convert("RGB"),
    "mirrored, recompressed": _chain(_mirrored, _recompressed),
    "mirrored, cropped": _chain(_mirrored, _cropped),
    "resized, cropped, recompressed": _chain(_resized, _cropped, _recompressed),
    "brightened, cropped, recompressed": _chain(_brightened, _cropped, _recompressed),
    "mirrored, darkened, cropped, recompressed": _chain(
        _mirrored, _darkened, _cropped, _recompressed
    ),
}
"""What becomes of one shot that is passed on."""

OTHERS: dict[str, Change] = {
    "a crop to half of both sides": partial(_cropped, share=0.5),
    "a crop to 70 % of both sides": partial(_cropped, share=0.3),
}
"""What is no copy, though it may show the same things."""

LAYOUT = 0.6
"""Share of a common picture in photos that are to look alike without being copies."""


@dataclass(frozen=True)
class Shown:
    """A photo of the benchmark: which original it shows, and what was done to it."""

    origin: int
    pixels: Pixels
    print: Fingerprint


def _as_jpeg(photo: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def _shown(origin: int, photo: Image.Image) -> Shown:
    pixels = np.asarray(CHECK_SCALE.fit(photo))
    return Shown(origin, pixels, fingerprint(pixels))


def _planted(paths: Sequence[Path], change: Change, number: int) -> list[Shown]:
    """Change all photos, each by its own draw, and save them as people do."""

    def plant(origin: int) -> Shown:
        changed = change(read_photo(paths[origin]), np.random.default_rng([number, origin]))
        return _shown(origin, _as_jpeg(changed, 90))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(plant, range(len(paths))))


def _layouts(paths: Sequence[Path]) -> list[Shown]:
    """Lay photos over one blurred picture: as alike as X-rays, and no copies of one another."""
    size = (170, 128)
    common = read_photo(paths[0]).resize(size).filter(ImageFilter.GaussianBlur(6))
    return [
        _shown(origin, Image.blend(read_photo(path).resize(size), common, LAYOUT))
        for origin, path in enumerate(paths)
    ]


def _found(shown: Sequence[Shown]) -> list[tuple[int, int, Pair]]:
    """Return the pairs that are found, by index."""
    photos = [
        Photo(f"{index:06}", 0, Split.TRAIN, each.print.sha256, 1)
        for index, each in enumerate(shown)
    ]
    pairs, _, _ = find_duplicates(
        photos,
        [each.print for each in shown],
        lambda asked: embed((shown[index].pixels for index in asked), len(asked)),
    )
    return [(int(pair.first.path), int(pair.second.path), pair) for pair in pairs]


def quality(given: argparse.Namespace) -> str:
    """Plant copies and look-alikes; return the table of what is found of each kind."""
    paths = sorted(path for path in given.data.rglob("*") if path.is_file())[given.half :: 2]
    originals = _planted(paths, lambda photo, _: photo, 0)
    known = {(one, other) for one, other, _ in _found(originals)}
    say(f"{len(paths)} originals, {len(known)} pairs of them found alike")
    if given.sheet:
        _sheet(originals, sorted(known)).save(given.sheet)
    rows, right, wrong = [], 0, 0
    for number, (kind, change) in enumerate((COPIES | OTHERS).items(), 1):
        found = _found([*originals, *_planted(paths, change, number)])
        n = len(paths)
        ends = [(one % n, other % n) for one, other, _ in found if other >= n]
        same = sum(one == other for one, other in ends)
        strangers = sum(
            one != other and (min(one, other), max(one, other)) not in known for one, other in ends
        )
        copies = kind in COPIES
        right += same if copies else 0
        wrong += strangers + (0 if copies else same)
        recall = f"{same / n:.3f}" if copies else ""
        rows.append([kind, recall, str(strangers), "" if copies else f"{same / n:.3f}"])
        say("  ".join(rows[-1]))
    layouts = len(_found(_layouts(paths[:200])))
    table = markdown(("change", "recall", "pairs of different photos", "called copies"), rows)
    return (
        f"{table}\n\nprecision of all together {right / max(1, right + wrong):.4f}; "
        f"of 200 photos over one layout (19,900 pairs), {layouts} pairs are called copies"
    )


def _sheet(shown: Sequence[Shown], pairs: Sequence[tuple[int, int]]) -> Image.Image:
    """Draw the pairs side by side, to be judged by eye."""
    sheet = Image.new("RGB", (6 * 300, 150 * (len(pairs) // 6 + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, pair in enumerate(pairs):
        left, top = 300 * (place % 6), 150 * (place // 6)
        for side, index in enumerate(pair):
            photo = Image.fromarray(shown[index].pixels)
            photo.thumbnail((140, 130))
            sheet.paste(photo, (left + 145 * side, top))
        draw.text((left, top + 132), f"{pair[0]} {pair[1]}", fill="black")
    return sheet


def _scenes(paths: Sequence[Path], count: int) -> Iterator[Image.Image]:
    """Make photos that are no copies of one another: two crops of different photos, blended."""
    draw = np.random.default_rng(0)
    for index in range(count):
        one, other = (
            _cropped(read_photo(paths[int(choice)]), draw, 0.4).resize((240, 180))
            for choice in (index % len(paths), draw.integers(len(paths)))
        )
        yield Image.blend(one, other, draw.uniform(0.3, 0.7))


def speed(given: argparse.Namespace) -> str:
    """Look over photos with their decoded cache, features of all included."""
    paths = sorted(path for path in given.data.rglob("*") if path.is_file())
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        root = Path(folder) / "photos"
        for label in ("a", "b"):
            (root / "train" / label).mkdir(parents=True)
            (root / "val" / label).mkdir(parents=True)
        for index, photo in enumerate(_scenes(paths, given.photos)):
            split = "val" if index % 5 == 0 else "train"
            photo.save(root / split / "ab"[index % 2] / f"{index:05}.jpg", quality=90)
        manifest = build_manifest(root)
        cache = Cache(Path(folder) / "cache", manifest)
        cache.prepare([(split, CHECK_SCALE) for split in (Split.TRAIN, Split.VALID)])
        say(f"{given.photos} photos made and decoded")
        marks: dict[str, float] = {}
        began = time.perf_counter()

        def told(what: str, *_: int) -> None:
            marks[what] = time.perf_counter() - began

        with PeakMemory(watching=given.memory) as memory:
            found = inspect_data(manifest, cache, thorough=True, progress=told)
        whole = time.perf_counter() - began
    steps = ", ".join(f"{what} until {seconds:.1f} s" for what, seconds in marks.items())
    peak = f", peak {memory.peak_mb:.0f} MB" if memory.peak_mb else ""
    return f"{given.photos} photos: {whole:.1f} s ({steps}), {len(found.pairs)} pairs{peak}"


def index(_: argparse.Namespace) -> str:
    """Time the search for hashes alike by their number, spread at random or in clusters."""
    draw = np.random.default_rng(0)
    rows = []
    for n in (10_000, 40_000, 160_000):
        cells = [f"{n:,}"]
        for hashes in (_random(draw, n), _clustered(draw, n)):
            began = time.perf_counter()
            pairs = sum(len(left) for left, _ in alike(hashes[:, None], hashes)) // 2
            cells += [f"{time.perf_counter() - began:.2f}", f"{pairs:,}"]
        rows.append(cells)
    header = ("hashes", "random, s", "pairs", "clusters of 10, s", "pairs")
    return f"{markdown(header, rows)}\n\nwithin {RADIUS} of 64 bits"


def _random(draw: Draw, n: int) -> NDArray[np.uint64]:
    return draw.integers(0, 2**64, n, np.uint64, endpoint=False)


def _clustered(draw: Draw, n: int) -> NDArray[np.uint64]:
    """Return clusters of ten hashes around centres, each with a few bits changed."""
    flips = np.zeros(n, np.uint64)
    for _ in range(2):
        flips |= np.uint64(1) << draw.integers(0, 64, n, np.uint64)
    return np.repeat(_random(draw, n // 10), 10) ^ flips


def main() -> None:
    """Measure what is asked for, and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    for part in (quality, speed, index):
        of_part = parts.add_parser(part.__name__)
        of_part.set_defaults(run=part)
        if part is not index:
            of_part.add_argument("--data", type=Path, required=True)
        if part is quality:
            of_part.add_argument("--half", type=int, choices=(0, 1), default=1)
            of_part.add_argument("--sheet", type=Path)
        if part is speed:
            of_part.add_argument("--photos", type=int, default=10_000)
            of_part.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    print(given.run(given))


if __name__ == "__main__":
    main()
