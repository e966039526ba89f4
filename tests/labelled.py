"""Tiny photos of several labels each, and a list of them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("red", "green", "blue")


def write_photos(folder: Path, count: int, names: tuple[str, ...] = NAMES) -> None:
    """Write photos with a bright patch for each of their labels, and a list of them."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "labels"))
        for index in range(count):
            there = rng.random(len(names)) < 0.4
            pixels = rng.integers(60, 110, (40, 40, 3), dtype=np.uint8)
            for place in np.flatnonzero(there):
                row, column = divmod(int(place), 5)
                pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8, place % 3] = 255
            path = f"photos/{index}.png"
            Image.fromarray(pixels).save(folder / path)
            rows.writerow((path, ";".join(np.array(names)[there])))
