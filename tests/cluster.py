"""Ray clusters of several nodes on this machine, for the tests that need one."""

import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from study.engines.base import Engine
from study.engines.slots import Slot
from tests.engines import TRAINER
from trainers.base import StageTask, Trainer
from trainers.metrics import EpochMetrics

if TYPE_CHECKING:
    from study.engines.ray_cluster import ClusterEngine

ROOT = Path(__file__).parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: the extra `ray`")


@contextmanager
def cluster(nodes: int = 1) -> Iterator[Any]:
    """Start a cluster of nodes with one CPU each, in a folder and on ports of its own."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray: the extra `ray`")
    import ray
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=str(ROOT))  # the nodes inherit it
    folder = tempfile.mkdtemp(prefix="ray-")  # a short path: sockets lie in it
    # Ray writes the head's address here, wherever its own folder is, and does not make this one.
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
    started = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": folder})
    try:
        for _ in range(nodes - 1):
            started.add_node(**NODE)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def crash(nodes: Any) -> None:
    """Have a node of a cluster, but not its head, end as a machine does that loses its power."""
    node = next(iter(nodes.worker_nodes))
    (raylet,) = node.all_processes["raylet"]
    pid = raylet.process.pid
    # Workers would notice after a while that their raylet is gone, and train until then.
    workers = [line.read_text() for line in Path(f"/proc/{pid}/task").glob("*/children")]
    for each in (pid, *" ".join(workers).split()):
        os.kill(int(each), signal.SIGKILL)
    nodes.remove_node(node, allow_graceful=False)


@dataclass(frozen=True)
class Lent:
    """Trains each task with the trainer that lies in a folder which every node sees."""

    folder: Path

    def __call__(self, _slot: Slot, _cache: Path) -> Trainer:
        """Make it."""
        return self

    def train(self, task: StageTask) -> Generator[EpochMetrics, None, None]:
        """Train as the trainer does that lies there now."""
        trainer: Trainer = pickle.loads((self.folder / TRAINER).read_bytes())  # noqa: S301
        yield from trainer.train(task)


@dataclass
class OnRay:
    """One engine on a cluster of one node, for all tests."""

    engine: "ClusterEngine | None" = field(default=None, compare=False)

    def make(self, trainer: Trainer, _folder: Path) -> Engine:
        """Return an engine for tasks in any folder."""
        if self.engine is None:
            from study.engines.ray_cluster import ClusterEngine

            self._cluster = cluster()
            address = self._cluster.__enter__().address
            self._shared = Path(tempfile.mkdtemp())
            self.engine = ClusterEngine(
                Lent(self._shared), cache=self._shared, address=address, max_retries=0
            )
        (self._shared / TRAINER).write_bytes(pickle.dumps(trainer))
        return self.engine

    def close(self) -> None:
        """End the engine and its cluster."""
        if self.engine is not None:
            self.engine.close()
            self._cluster.__exit__(None, None, None)
            shutil.rmtree(self._shared)
            self.engine = None
