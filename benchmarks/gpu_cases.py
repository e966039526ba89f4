"""One case of `gpu.py`: Encore, the bare arithmetic and timm's loader around a plain loop."""

import threading
import time
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Any, Self

import torch
from ceiling import measure
from task import Laps
from timm.data import ImageDataset, create_loader
from torch.nn import functional

from trainers.backbone import build_network
from trainers.data.manifest import Manifest
from trainers.device import Compute
from trainers.schedule import Schedule

NOT_MEASURED = "not measured"


CEILING_SHARES = ((224, 0.95), (128, 0.8), (64, 0.6))
"""From which image size on Encore is to reach which share of the ceiling, at least."""

OVER_TIMM = 2.0
"""By how much it is to be faster than timm's loop at 128 pixels."""


def bars(size: int, share: float, over_timm: float) -> str:
    """Say which bars are missed at an image size, or that none is."""
    least = next((bar for pixels, bar in CEILING_SHARES if size >= pixels), None)
    if least is None:
        return "none at this size"
    missed = [f"{share:.2f} of the ceiling, not {least}"] if share < least else []
    if size == 128 and over_timm < OVER_TIMM:
        missed.append(f"{over_timm:.1f} times timm's loop, not {OVER_TIMM:g}")
    return f"missed: {'; '.join(missed)}" if missed else "met"


class Utilisation:
    """Within its `with`, samples how busy the GPU is; `share` is None where nothing tells."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        """End sampling."""
        self._done.set()
        self._thread.join()

    @property
    def share(self) -> str:
        """The mean of the samples, as text."""
        return f"{mean(self._samples):.0f} %" if self._samples else NOT_MEASURED

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            try:
                self._samples.append(float(torch.cuda.utilization()))
            except Exception:  # noqa: BLE001 - no GPU, or nothing installed that can tell
                return


def plain_loop(data: Path, schedule: Schedule, compute: Compute, workers: int) -> float:
    """Train with timm's loaders, channels_last and autocast; gives images/s after one epoch."""
    stage = schedule.stages[0]
    cuda = compute.device.type == "cuda"
    common: dict[str, Any] = {
        "input_size": (3, stage.image_size, stage.image_size),
        "batch_size": stage.batch_size,
        "interpolation": "bilinear",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "use_prefetcher": cuda,
        "device": compute.device,
    }
    train = create_loader(
        ImageDataset(data / "train"), is_training=True, scale=(0.7, 1.0), hflip=0.5, **common
    )
    valid = create_loader(ImageDataset(data / "val"), crop_pct=1.0, **common)
    network = build_network(schedule, len(train.dataset.reader.class_to_idx), 0)
    network.to(compute.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    laps, trained = Laps(), 0
    for _ in range(stage.epochs):
        network.train()
        trained = 0
        for squares, labels in train:
            with compute.autocast():
                logits = network(squares.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trained += len(labels)
        network.eval()
        with torch.inference_mode(), compute.autocast():
            for squares, _ in valid:
                network(squares.contiguous(memory_format=torch.channels_last))
        if cuda:
            torch.cuda.synchronize()
        laps.lap()
    later = laps.seconds[1:]
    return trained * len(later) / sum(later)


class BareStep:
    """A training step on a batch of noise that lies on the device: `take` it, or look at it."""

    def __init__(self, schedule: Schedule, compute: Compute) -> None:
        stage = schedule.stages[0]
        self.compute, self.batch = compute, stage.batch_size
        self._network = build_network(schedule, 10, 0).train()
        self._network.to(compute.device, memory_format=torch.channels_last)
        shape = stage.batch_size, 3, stage.image_size, stage.image_size
        squares = torch.rand(shape, device=compute.device)
        self._squares = squares.contiguous(memory_format=torch.channels_last)
        self._labels = torch.arange(stage.batch_size, device=compute.device) % 10
        cuda = compute.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=1e-4, fused=True, capturable=cuda
        )

    def take(self) -> None:
        """Take the step."""
        self._optimizer.zero_grad()
        with torch.autocast(
            self.compute.device.type,
            torch.bfloat16,
            enabled=self.compute.precision == "bf16",
            cache_enabled=False,  # else a graph would hold on to copies of weights
        ):
            logits = self._network(self._squares)
        functional.cross_entropy(logits.float(), self._labels).backward()
        self._optimizer.step()

    def launches(self) -> object:
        """Count the kernels that a step launches."""
        if self.compute.device.type != "cuda":
            return NOT_MEASURED
        self.take()
        with torch.profiler.profile() as profile:
            self.take()
            torch.cuda.synchronize()
        return sum("LaunchKernel" in event.name for event in profile.events() or [])

    def graphed(self, steps: int = 30) -> object:
        """Return the images/s of the step as one CUDA graph, or why it cannot be one."""
        if self.compute.device.type != "cuda":
            return NOT_MEASURED
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.take()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.take()
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                graph.replay()
            torch.cuda.synchronize()
        except RuntimeError as error:
            return f"refused: {str(error).splitlines()[0]}"
        return round(steps * self.batch / (time.perf_counter() - began), 1)


def case(
    data: Path, manifest: Manifest, schedule: Schedule, compute: Compute, workers: int
) -> dict[str, object]:
    """Measure one backbone at one size."""
    cuda = compute.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with Utilisation() as utilisation:
        row = measure(manifest, schedule, compute)
    # Before timm's loop, whose memory is its own.
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if cuda else NOT_MEASURED
    peer = plain_loop(data, schedule, compute, workers)
    ratio = float(str(row["images/s"])) / peer
    step = BareStep(schedule, compute)
    return row | {
        "batch": schedule.stages[0].batch_size,
        "timm's loop, images/s": round(peer, 1),
        "Encore is faster by": round(ratio, 2),
        "bars": bars(schedule.stages[0].image_size, float(str(row["share of the ceiling"])), ratio),
        "device memory": memory,
        "utilisation": utilisation.share,
        "launches a step": step.launches(),
        "one CUDA graph, images/s": step.graphed(),
    }
