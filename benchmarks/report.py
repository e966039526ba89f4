"""What a report takes to write, and how large it is, by the number of trials.

PYTHONPATH=. python benchmarks/report.py
PYTHONPATH=. python benchmarks/report.py --storage URL --study NAME

Without a study it makes some: rows in a real database, with small photos, as the tests use them.
Their weights are no network's, so that only of a real study heat maps are drawn.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from contestants import markdown, say

from study.report.write import report
from tests.studies import NAME, write_study

SIZES = ((1, 2, 20), (50, 2, 150), (2000, 2, 150), (2000, 10, 300))
"""Trials, classes, and validation photos of each class."""

TIMES = 3


def written(storage: str, study: str, folder: Path) -> list[str]:
    """Write a study's report; return the median seconds and the megabytes."""
    file, times = folder / "report.html", []
    for _ in range(TIMES):
        began = time.perf_counter()
        report(study, storage=storage, to=file)
        times.append(time.perf_counter() - began)
    return [f"{median(times):.1f}", f"{file.stat().st_size / 1e6:.1f}"]


def made() -> str:
    """Write the reports of studies of all sizes."""
    rows = []
    for trials, classes, each in SIZES:
        with TemporaryDirectory(prefix="encore-bench-") as folder:
            study = write_study(Path(folder), trials, classes=classes, each=each)
            cells = written(study.url, NAME, Path(folder))
        rows.append([f"{trials:,}", str(classes), f"{classes * each:,}", *cells])
        say("  ".join(rows[-1]))
    return markdown(("trials", "classes", "validation photos", "seconds", "MB"), rows)


def main() -> None:
    """Measure, and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", help="database of a study to write, with --study")
    parser.add_argument("--study")
    given = parser.parse_args()
    if not given.storage:
        print(made())
        return
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        seconds, size = written(given.storage, given.study, Path(folder))
    print(f"{seconds} s, {size} MB")


if __name__ == "__main__":
    main()
