"""Part `wall`: how long a search of the digits takes, against the loop that a user would write.

Each search is a process of its own; its time begins before Python does. CPU seconds are those of
all its processes: they can be compared on a machine that does other things, too.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from contestants import markdown, rotated, say
from wiring import Curve, spent_until

from trainers.data.digits import digits_folder
from trainers.data.manifest import Split, build_manifest

HOME = "encore, 2 workers"
HEADER = (
    "searched by",
    "best accuracy, %",
    "whole search, s",
    "encore is faster by (lowest - highest)",
    "to the same accuracy, encore is faster by",
    "CPU, s",
    "encore takes less CPU by",
    "epochs trained",
)
CONTESTANTS: dict[str, tuple[str, ...]] = {
    HOME: ("encore_search.py",),
    "encore, 2 workers, independent": ("encore_search.py", "--strategy", "independent"),
    "optuna + ImageFolder": ("user_loop.py",),
    "optuna + ImageFolder, channels_last": ("user_loop.py", "--channels-last"),
}


def split_digits(folder: Path) -> Path:
    """Make {train,val}/CLASS of the digits, split as Encore splits them."""
    manifest = build_manifest(digits_folder(folder))
    data = folder / "split"
    for split, name in ((Split.TRAIN, "train"), (Split.VALID, "val")):
        for photo in manifest.of_split(split):
            target = data / name / manifest.classes[photo.label] / Path(photo.path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(manifest.root / photo.path, target)
    return data


@dataclass(frozen=True)
class Run:
    """A search: its best accuracy over seconds, and what all of it took."""

    curve: Curve
    seconds: float
    cpu: float
    epochs: int


def search(name: str, data: Path, trials: int, seed: int) -> Run:
    """Search once."""
    script, *flags = CONTESTANTS[name]
    began, used = time.time(), _cpu_of_children()
    task = {"--data": data, "--trials": trials, "--seed": seed, "--began": began}
    options = [str(text) for pair in task.items() for text in pair]
    command = [sys.executable, str(Path(__file__).with_name(script)), *options, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    seconds = time.time() - began
    curve = [tuple(json.loads(line)) for line in done.stdout.splitlines() if line[:1] == "["]
    epochs = len({spent for spent, _ in curve})
    return Run(curve, seconds, _cpu_of_children() - used, epochs)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(name: str, runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Write a line of the table: medians over the rounds, ratios within each."""
    own, home = runs[name], runs[HOME]
    pairs = list(zip(own, home, strict=False))
    same = []
    for mine, ours in pairs:
        target = min(mine.curve[-1][1], ours.curve[-1][1])
        same.append(spent_until(mine.curve, target) / spent_until(ours.curve, target))

    def ratio(ratios: Sequence[float]) -> str:
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        return "-" if name == HOME else spread

    return [
        name,
        f"{100 * median(run.curve[-1][1] for run in own):.2f}",
        f"{median(run.seconds for run in own):.1f}",
        ratio([mine.seconds / ours.seconds for mine, ours in pairs]),
        ratio(same),
        f"{median(run.cpu for run in own):.0f}",
        ratio([mine.cpu / ours.cpu for mine, ours in pairs]),
        f"{median(run.epochs for run in own):.0f}",
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this part's options."""
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS),
                        default=list(CONTESTANTS))  # fmt: skip


def run(given: argparse.Namespace) -> tuple[str, Any]:
    """Measure; return the table and what it was made of."""
    names = [HOME, *(name for name in given.contestants if name != HOME)]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    # The searches are programs: they find the packages where this one does.
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with TemporaryDirectory(prefix="encore-bench-") as folder:
        data = split_digits(Path(folder))
        for turn in range(given.rounds):
            for name in rotated(names, turn):
                runs[name].append(search(name, data, given.trials, turn))
                say(f"round {turn + 1}: {name}: {runs[name][-1].seconds:.1f} s")
    plain = {name: [vars(run) for run in found] for name, found in runs.items()}
    return markdown(HEADER, [row(name, runs) for name in names]), plain
