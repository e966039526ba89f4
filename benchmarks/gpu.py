"""How close Encore comes to a GPU's arithmetic, and to timm's loaders around a plain loop.

`--device cpu` tries the script itself out. Where no weights can be fetched: `--weights random`.
"""

import argparse
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Any, Self

import torch
from ceiling import measure, one_stage
from contestants import markdown
from task import Laps
from timm.data import ImageDataset, create_loader
from torch.nn import functional

from trainers.backbone import build_network
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.device import Compute, choose_compute
from trainers.schedule import Schedule

CASES = [
    ("tf_efficientnet_lite0", 128),
    ("tf_efficientnet_lite0", 224),
    ("resnext50_32x4d", 128),
    ("resnext50_32x4d", 224),
    ("resnext50_32x4d", 300),
]


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
        return f"{mean(self._samples):.0f} %" if self._samples else "not measured"

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


def case(
    data: Path, manifest: Manifest, schedule: Schedule, compute: Compute, workers: int
) -> dict[str, object]:
    """Measure one backbone at one size."""
    cuda = compute.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with Utilisation() as utilisation:
        row = measure(manifest, schedule, compute)
    peer = plain_loop(data, schedule, compute, workers)
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if cuda else "not measured"
    ratio = float(str(row["images/s"])) / peer
    return row | {
        "timm's loop, images/s": round(peer, 1),
        "Encore is faster by": round(ratio, 2),
        "device memory": memory,
        "utilisation": utilisation.share,
    }


def main() -> None:
    """Measure every case and print a table with date and device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--cases", nargs="*", help="such as resnext50_32x4d:224; default: all")
    parser.add_argument("--photos", type=int, help="for Encore about so many, spread over all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    compute = choose_compute(given.device)
    manifest = build_manifest(given.data)
    if given.photos:
        step = max(1, len(manifest.photos) // given.photos)
        manifest = replace(manifest, photos=manifest.photos[::step])
    cases = [(name, int(size)) for name, _, size in (c.partition(":") for c in given.cases or [])]
    rows = []
    for backbone, size in cases or CASES:
        schedule = one_stage(
            size, given.rounds + 1, given.batch, backbone=backbone, weights=given.weights
        )
        rows.append(case(given.data, manifest, schedule, compute, given.workers))
        print(json.dumps(rows[-1]), flush=True)
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {compute.name}, torch {torch.__version__}, ", end="")
    print(f"{len(manifest.of_split(Split.TRAIN))} training photos, batch {given.batch}\n")
    print(markdown(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
