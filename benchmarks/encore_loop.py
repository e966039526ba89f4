"""The contestant Encore: the manifest, the cache and one stage of `Finetuner`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from memory import PeakMemory
from task import Laps, Outcome, Task, command_line

from trainers.base import StageTask
from trainers.data.cache import Cache
from trainers.data.manifest import Split, build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner


def compete(task: Task, folder: Path) -> Outcome:
    """Train and validate `task.epochs` times; the first epoch reads, checks and decodes all."""
    compute = choose_compute("cpu")
    with PeakMemory(watching=task.memory) as memory:
        laps = Laps()
        manifest = build_manifest(task.data)
        trainer = Finetuner(manifest, compute=compute, cache=Cache(folder / "cache", manifest))
        accuracies = []
        for epoch in trainer.train(
            StageTask(schedule=task.schedule, seed=task.seed, folder=folder)
        ):
            laps.lap()
            accuracies.append(epoch.accuracy)
    return Outcome(
        name="encore",
        epoch_seconds=laps.seconds,
        train_images=len(manifest.of_split(Split.TRAIN)),
        valid_images=len(manifest.of_split(Split.VALID)),
        accuracy=accuracies,
        peak_rss_mb=memory.peak_mb,
    )


def main() -> None:
    """Compete, and print the outcome."""
    task = Task.of(command_line(__doc__).parse_args())
    with TemporaryDirectory() as folder:
        compete(task, Path(folder)).print()


if __name__ == "__main__":
    main()
