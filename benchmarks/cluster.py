"""Part `cluster`: what a stage run costs on Ray beside `processes`, and what a lost node costs.

Pairs run one after the other on the same slots, so that the machine's mood is the same for both.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ray
from contestants import markdown, say
from ray.cluster_utils import Cluster
from stamped import StampedRecipe

from study.config.loading import load_config, settings_of
from study.engines.base import Engine, EpochEnded, StageEnded, StageFailed
from study.engines.processes import ProcessEngine
from study.engines.ray_cluster import ClusterEngine
from study.engines.recipe import Recipe
from study.engines.slots import Slot, slots_of
from trainers.allowance import usable_cpus
from trainers.base import StageTask, Trainer
from trainers.data.digits import digits_folder
from trainers.data.manifest import build_manifest
from trainers.schedule import Schedule, Stage

NODE = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
HEADER = ("work", "stage runs", "pairs", "processes, ms", "Ray, ms", "more, ms", "ratio")


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Start nodes that share this machine's cores, as the slots of `processes` do."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {**NODE, "num_cpus": max(1, usable_cpus() // nodes)}
    started = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            started.add_node(**node)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@dataclass(frozen=True)
class Work:
    """What both engines train, and who trains it in a slot."""

    name: str
    build: Callable[..., Trainer]
    schedule: Schedule

    def seconds(self, engine: Engine, count: int) -> float:
        """Return the seconds that an engine takes for so many stage runs."""
        with tempfile.TemporaryDirectory(prefix="encore-bench-") as folder:
            began = time.perf_counter()
            for number in range(count):
                engine.submit(str(number), _task(self.schedule, number, Path(folder)))
            ended = Counter(type(event) for event in engine.events())
            if ended[StageEnded] != count:
                raise RuntimeError(f"{count} stage runs must end, {ended} did")
            return time.perf_counter() - began


def _task(schedule: Schedule, seed: int, folder: Path) -> StageTask:
    (folder / str(seed)).mkdir()
    return StageTask(schedule=schedule, seed=seed, folder=folder / str(seed))


def synthetic(slot: Slot, _cache: Path | None = None, *, seconds: float = 0.0) -> Trainer:
    """Make the trainer of no work, or of epochs that take their time."""
    return StampedRecipe(seconds, None)(slot)


def compare(work: Work, slots: int, count: int, pairs: int, cache: Path) -> list[str]:
    """Measure pairs; the first one, in which workers wake up, does not count."""
    with (
        cluster(slots) as nodes,
        closing(ProcessEngine(work.build, slots_of(f"cpu:{slots}"))) as processes,
        closing(ClusterEngine(work.build, cache=cache, address=nodes.address)) as on_ray,
    ):
        engines = (processes, on_ray)
        for engine in engines:
            work.seconds(engine, 4 * slots)
        found = []
        for _ in range(pairs):
            found.append([1000 * work.seconds(engine, count) / count for engine in engines])
            say(f"{work.name}: {found[-1]}")
    theirs, ours = (median(each) for each in zip(*found, strict=True))
    ratio = median(pair[1] / pair[0] for pair in found)
    more = median(pair[1] - pair[0] for pair in found)
    cells = [f"{number:.1f}" for number in (theirs, ours, more)]
    return [work.name, str(count), str(pairs), *cells, f"{ratio:.2f}"]


def lose_a_node(count: int, epochs: int, seconds: float) -> list[str]:
    """Train on three nodes, of which one is killed when a third is done."""
    schedule = _schedule(Stage(image_size=32, batch_size=8, cycle_len=epochs))
    ended: Counter[str] = Counter()
    told: Counter[str] = Counter()
    with cluster(3) as nodes, tempfile.TemporaryDirectory(prefix="encore-bench-") as folder:
        build = partial(synthetic, seconds=seconds)
        with closing(ClusterEngine(build, cache=Path(folder), address=nodes.address)) as engine:
            Work("awake", build, schedule).seconds(engine, 6)
            began, killed = time.perf_counter(), 0.0
            for number in range(count):
                engine.submit(str(number), _task(schedule, number, Path(folder)))
            for event in engine.events():
                ended[event.key] += isinstance(event, StageEnded)
                told[event.key] += isinstance(event, EpochEnded)
                if isinstance(event, StageFailed):
                    raise RuntimeError(f"no stage run may fail, {event} did")
                if not killed and ended.total() == count // 3:
                    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
                    killed = time.perf_counter() - began
            wall = time.perf_counter() - began
    work = count * epochs * seconds
    ideal = killed + max(0.0, work - 3 * killed) / 2  # three slots until then, two after
    twice = sum(number > 1 for number in ended.values())
    lost = count - sum(number > 0 for number in ended.values())
    again = told.total() - count * epochs
    return [*map(str, (count, lost, twice, again)), *(f"{x:.1f}" for x in (killed, wall, ideal)),
            f"{wall / ideal:.2f}"]  # fmt: skip


def _schedule(stage: Stage) -> Schedule:
    return Schedule(backbone="tf_efficientnet_lite0", stages=(stage,), weights="random")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--part", choices=["synthetic", "real", "node"], required=True)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="encore-bench-") as name:
        cache = Path(name)
        if given.part == "synthetic":
            work = Work("synthetic", synthetic, _schedule(Stage(image_size=32, batch_size=8)))
            print(markdown(HEADER, [compare(work, given.slots, given.count, given.pairs, cache)]))
        elif given.part == "real":
            config = load_config(settings_of(storage=f"sqlite:///{cache / 'encore.db'}"))
            manifest = build_manifest(digits_folder(cache))
            made = Recipe.of(config, manifest, cache / ".cache")
            stage = Stage(image_size=32, batch_size=32)
            made.prepare([stage], lambda *_: None, say)
            work = Work("digits", partial(made.trainer, alone=True), _schedule(stage))
            print(markdown(HEADER, [compare(work, given.slots, given.count, given.pairs, cache)]))
        else:
            header = ("stage runs", "lost", "run twice to the end", "epochs told again",
                      "killed after, s", "wall, s", "ideal, s", "ratio")  # fmt: skip
            print(markdown(header, [lose_a_node(given.count, 3, 0.25)]))


if __name__ == "__main__":
    main()
