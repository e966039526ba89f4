"""All that `gpu.py --all` measures, in three parts; what has been measured is not again.

What has failed is: the next call tries it once more.
"""

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree  # of a file that pytest writes for us
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ceiling import one_stage
from contestants import markdown, surroundings
from gpu_cases import case
from PIL import Image

from study.engines.base import EpochEnded, StageFailed
from study.engines.processes import ProcessEngine
from study.engines.recipe import Recipe
from study.engines.slots import slots_of
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.device import choose_compute
from trainers.metrics import Metric

ROOT = Path(__file__).parents[1]

PART_SECONDS = 540.0
"""No new case of a part is begun after that, so that it ends within ten minutes."""

LEFT_OVER = 75
"""Exit code: not everything is measured yet, run the same again (EX_TEMPFAIL)."""

Row = dict[str, object]


@dataclass(frozen=True)
class Extent:
    """How much is measured, and on how large photos."""

    backbones: tuple[tuple[str, tuple[int, ...]], ...]
    batches: tuple[int, ...]
    rounds: int
    photos: int
    pixels: int
    loaders: int
    together: tuple[int, ...]
    search_seconds: int
    search: tuple[str, ...] = ()


WHOLE = Extent(
    backbones=(("resnext50_32x4d", (64, 128, 224, 300)), ("tf_efficientnet_lite0", (64, 128, 224))),
    batches=(32, 128),
    rounds=3,
    photos=4000,
    pixels=400,
    loaders=16,
    together=(1, 2, 4),
    search_seconds=300,
)
TINY = Extent(
    backbones=(("test_resnet", (24,)),),
    batches=(8,),
    rounds=1,
    photos=32,
    pixels=40,
    loaders=0,
    together=(1, 2),
    search_seconds=300,
    search=("--trials", "1", "--backbone", "test_resnet", "--no-portfolio"),
)


class Results:
    """The rows that a folder holds, a JSON object a line; each is there as soon as it is known."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = folder / "results.jsonl"
        text = self._file.read_text() if self._file.exists() else ""
        # A line that a kill has cut short is measured again.
        whole = text[: text.rfind("\n") + 1]
        self.rows: list[Row] = [json.loads(line) for line in whole.splitlines()]
        if whole != text:
            self._file.write_text(whole)

    def add(self, part: int, name: str, row: Row) -> None:
        """Add what was measured of a case."""
        self.rows.append({"part": part, "case": name, **row})
        with self._file.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        print(json.dumps(self.rows[-1]), flush=True)

    def has(self, part: int, name: str) -> bool:
        """Whether a case has been measured, and has not failed."""
        return any(row["case"] == name and not _has_failed(row) for row in self.of_part(part))

    def of_part(self, part: int) -> list[Row]:
        """Return the rows of a part, of each case the last."""
        last = {row["case"]: row for row in self.rows if row["part"] == part}
        return list(last.values())


def _has_failed(row: Row) -> bool:
    return "failed" in row or row.get("outcome") in ("failure", "error", "not run")


Case = tuple[str, Callable[[], Row]]
"""The name of a case, and what measures it."""


def run_parts(parts: Sequence[int], folder: Path, device: str, *, tiny: bool) -> int:
    """Measure what the folder lacks, write its table.md, and return the exit code."""
    results, extent = Results(folder), TINY if tiny else WHOLE
    cases = {1: tests_of(device, folder), 2: speeds_of(extent, device, folder),
             3: jobs_of(extent, device, folder)}  # fmt: skip
    left = sum([measure(part, cases[part], results) for part in parts])
    table = table_of(results, device, tiny=tiny)
    (folder / "table.md").write_text(table)
    print(table)
    return LEFT_OVER if left else 0


def measure(part: int, cases: Iterator[Case], results: Results) -> int:
    """Measure the cases of a part while there is time; return how many are left."""
    began, left = time.monotonic(), 0
    for name, run in cases:
        if results.has(part, name):
            continue
        if time.monotonic() - began > PART_SECONDS:
            left += 1
            continue
        try:
            results.add(part, name, run())
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            results.add(part, name, {"failed": f"{type(error).__name__}: {error}"[:300]})
    return left


def tests_of(device: str, folder: Path) -> Iterator[Case]:
    """Yield part 1: the tests that need a GPU, each of them a case."""

    def run(name: str) -> Row:
        report = folder / "tests.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib",
                   "-p", "no:cacheprovider", f"--junitxml={report}", name]  # fmt: skip
        environment = os.environ | {"ENCORE_GPU_TESTS": device, "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - pytest
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            return {"outcome": "not run", "why": (done.stdout + done.stderr)[-300:]}
        found = next(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - ours
        outcome = next((e.tag for e in found if e.tag in ("failure", "error", "skipped")), "passed")
        why = {"why": done.stdout[-300:]} if outcome in ("failure", "error") else {}
        return {"outcome": outcome, "seconds": round(time.perf_counter() - began, 1), **why}

    for name in gpu_tests():
        yield name.rpartition("::")[2], partial(run, name)


def gpu_tests() -> list[str]:
    """Name the tests that are marked `gpu`."""
    file = "tests/integration/test_on_a_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider",
               "-o", "addopts=--import-mode=importlib", "-m", "gpu", file]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - pytest
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line for line in done.stdout.splitlines() if "::" in line]
    if not names:
        raise SystemExit(f"no test is marked `gpu`: {(done.stdout + done.stderr)[-500:]}")
    return names


def speeds_of(extent: Extent, device: str, folder: Path) -> Iterator[Case]:
    """Yield part 2: each backbone, size and batch; then several workers on the one device."""
    compute, data = choose_compute(device), photos_in(folder / "photos", extent)
    manifest = build_manifest(data)

    def speed(backbone: str, size: int, batch: int) -> Row:
        schedule = one_stage(size, extent.rounds + 1, batch, backbone=backbone, weights="random")
        return case(data, manifest, schedule, compute, extent.loaders)

    def workers(count: int) -> Row:
        backbone, (size, *_) = extent.backbones[0]
        schedule = one_stage(size, 3, extent.batches[0], backbone=backbone, weights="random")
        made = Recipe(
            manifest=manifest,
            metric=Metric.ACCURACY,
            precision="auto",
            compiled=False,
            deterministic=False,
            checkpoint_seconds=1e9,
            weights_file=None,
            cache_folder=folder / "cache",
            cache_limit=None,
        )
        slots = slots_of(device if device == "cpu" else "0", count)
        engine = ProcessEngine(partial(made.trainer, alone=True), slots)
        for index in range(count):
            work = folder / "work" / f"{count}-{index}"
            work.mkdir(parents=True, exist_ok=True)
            task = StageTask(schedule=schedule, seed=index, folder=work)
            engine.submit(str(index), task)
        try:
            return {"workers": count, "images/s in all": _images_per_second(engine, manifest)}
        finally:
            engine.close()

    for backbone, sizes in extent.backbones:
        for size in sizes:
            for batch in extent.batches:
                yield f"{backbone} {size} px, {batch}", partial(speed, backbone, size, batch)
    for count in extent.together:
        yield f"{count} workers on the device", partial(workers, count)


def _images_per_second(engine: ProcessEngine, manifest: Manifest) -> float:
    """Return the images of all workers' epochs by the clock, from when each has had its first."""
    photos = len(manifest.of_split(Split.TRAIN))
    seen: dict[str, int] = {}
    began, images = 0.0, 0
    for event in engine.events():
        if isinstance(event, StageFailed):
            raise RuntimeError(event.reason)
        if isinstance(event, EpochEnded):
            seen[event.key] = seen.get(event.key, 0) + 1
            if began:
                images += photos
            elif len(seen) == engine.slots:
                began = time.perf_counter()
    return round(images / (time.perf_counter() - began), 1)


def jobs_of(extent: Extent, device: str, folder: Path) -> Iterator[Case]:
    """Yield part 3: a search as users run it, and `best`."""

    def command(*words: str) -> str:
        database = f"sqlite:///{(folder / 'encore.db').resolve()}"
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, str(ROOT / "cli.py"), *words, "--storage", database],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RuntimeError(f"{words[0]} ended with code {done.returncode}: {last}")
        return done.stdout

    def search() -> Row:
        data = photos_in(folder / "photos", extent).resolve()
        began = time.perf_counter()
        command("search", "--data", str(data), "--weights", "random", *extent.search,
                "--devices", device if device == "cpu" else "0",
                "--timeout", f"{extent.search_seconds}s")  # fmt: skip
        return {"seconds": round(time.perf_counter() - began, 1)}

    def best() -> Row:
        chosen = json.loads(command("best", "--json"))
        return {key: chosen[key] for key in ("trials", "score", "errors", "n_valid")}

    yield "search", search
    yield "best", best


def photos_in(folder: Path, extent: Extent) -> Path:
    """Make photos of coarse noise in two tints, if they are not there, in {train,val}/CLASS."""
    done = folder / "done"
    rng = np.random.default_rng(0)
    for index in range(0 if done.exists() else extent.photos):
        split, label = "val" if index % 8 < 2 else "train", index % 2
        path = folder / split / ("reds", "blues")[label] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 200, (12, 16, 3), dtype=np.uint8)
        pixels[:, :, 2 * label] += 40
        size = extent.pixels * 4 // 3, extent.pixels
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path, quality=85)
    done.touch()
    return folder


def table_of(results: Results, device: str, *, tiny: bool) -> str:
    """Return all rows as Markdown, a table for each part, under a heading that says what it is."""
    where = torch.cuda.get_device_name() if device.startswith("cuda") else device
    versions = ", ".join(f"{name} {value}" for name, value in surroundings().items())
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {where}, {versions}", ""]
    if tiny or not device.startswith("cuda"):
        lines += [
            "**The script was tried out, and no GPU measured: nothing here is a figure.**",
            "",
        ]
    for part in (1, 2, 3):
        some = [{k: v for k, v in row.items() if k != "part"} for row in results.of_part(part)]
        columns = list(dict.fromkeys(key for row in some for key in row))
        cells = [[str(row.get(column, "")) for column in columns] for row in some]
        lines += [f"Part {part}", "", markdown(columns, cells) if some else "Not measured.", ""]
    return "\n".join(lines)
