"""How close a training comes to the bare arithmetic of its network.

Each round trains an epoch as a search does (loading, augmentation, training, validation, recording)
and then takes the same steps on tensors that lie ready in memory, in one process, in turns.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from contestants import markdown

from storage.database import open_database
from storage.records import ManifestRecord, Role, stage_run_key
from storage.store import Store
from trainers.backbone import build_network
from trainers.base import StageTask
from trainers.data.cache import Cache
from trainers.data.loader import Photos, training_batches, validation_batches
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.device import Compute, choose_compute
from trainers.finetuner import Finetuner
from trainers.loop import evaluate, make_optimizer, train_epoch
from trainers.metrics import EpochMetrics, Metric
from trainers.schedule import Augmentation, Schedule, Stage

Turn = Generator[tuple[float, float], None, None]
"""Yields for each epoch its seconds, and the share of them spent waiting for data."""


def end_to_end(manifest: Manifest, schedule: Schedule, compute: Compute, folder: Path) -> Turn:
    """Train as a search does, each epoch recorded in a database."""
    store = Store(open_database(f"sqlite:///{folder}/encore.db"))
    document = ManifestRecord(digest=manifest.digest, root="", document=manifest.to_json())
    store.save_manifest(document)
    study = store.create_study("bench", Metric.ACCURACY, manifest.digest, {}, {})
    trial = store.add_trial(study.id, 0, schedule, 0, Role.EXPLORE)
    run = store.begin_stage_run(trial, stage_run_key(manifest.digest, schedule, 0), 0)
    trainer = Finetuner(manifest, compute=compute, cache=Cache(folder / "cache", manifest))
    (folder / "work").mkdir()
    epochs = trainer.train(StageTask(schedule=schedule, seed=0, folder=folder / "work"))
    while True:
        began = time.perf_counter()
        metrics: EpochMetrics | None = next(epochs, None)
        if metrics is None:
            return
        store.record_epoch(run.id, metrics)
        yield _now(compute) - began, metrics.data_wait or 0.0


def bare(manifest: Manifest, schedule: Schedule, compute: Compute) -> Turn:
    """Take the same steps on one epoch's tensors, made beforehand."""
    stage, photos = schedule.stages[0], Photos(manifest, device=compute.device)
    training = list(training_batches(photos, stage, seed=0, position=0, epoch=0))
    validation = list(validation_batches(photos, stage))
    network = build_network(schedule, len(manifest.classes), 0)
    network.set_dropout(stage.site_dropout(schedule.dropout_sites))
    network.to(compute.device, memory_format=torch.channels_last)
    optimizer, scaler = make_optimizer(network, stage), compute.scaler()
    while True:
        began = time.perf_counter()
        network.train()
        train_epoch(network, training, optimizer, scaler, lambda _: 1.0, compute)
        network.eval()
        evaluate(network, validation, compute)
        yield _now(compute) - began, 0.0


def _now(compute: Compute) -> float:
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def one_stage(
    size: int, epochs: int, batch: int = 32, *, backbone: str, weights: str = "pretrained"
) -> Schedule:
    """Return a schedule of one stage, with all that costs time switched on."""
    stage = Stage(
        image_size=size,
        batch_size=batch,
        cycle_len=epochs,
        max_zoom=1.1,
        augmentation=Augmentation.SIDE_ON,
        dropout=(0.25, 0.5),
    )
    return Schedule(backbone=backbone, stages=(stage,), weights=weights)


def measure(manifest: Manifest, schedule: Schedule, compute: Compute) -> dict[str, object]:
    """Take the schedule's epochs of each in turns; the first of each only warms up."""
    images = len(manifest.of_split(Split.TRAIN))
    rounds = schedule.epochs - 1
    with tempfile.TemporaryDirectory() as folder:
        ours = end_to_end(manifest, schedule, compute, Path(folder))
        ceiling = bare(manifest, schedule, compute)
        first, _ = next(ours)
        next(ceiling)
        pairs = []
        for turn in range(rounds):
            both = (next(ours), next(ceiling)) if turn % 2 else (next(ceiling), next(ours))[::-1]
            pairs.append(both)
        ours.close()
    seconds, waits = zip(*(mine for mine, _ in pairs), strict=True)
    bounds = [bound for _, (bound, _) in pairs]
    return {
        "backbone": schedule.backbone,
        "pixels": schedule.stages[0].image_size,
        "images/s": round(images / median(seconds), 1),
        "ceiling images/s": round(images / median(bounds), 1),
        "share of the ceiling": round(
            median(b / s for s, b in zip(seconds, bounds, strict=True)), 3
        ),
        "waiting for data": f"{median(waits):.1%}",
        "first epoch, s": round(first, 2),
        "median epoch, s": round(median(seconds), 2),
    }


def main() -> None:
    """Measure at each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--photos", type=int, help="take about so many, spread over all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    manifest = build_manifest(given.data)
    if given.photos:
        step = max(1, len(manifest.photos) // given.photos)
        manifest = replace(manifest, photos=manifest.photos[::step])
    rows = []
    for size in given.sizes:
        schedule = one_stage(size, given.rounds + 1, backbone=given.backbone)
        rows.append(measure(manifest, schedule, choose_compute("cpu")))
        print(json.dumps(rows[-1]), flush=True)
    print(markdown(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
