"""How well photos unlike the training photos are told; what stated rates come to on test photos.

A network is trained on each set of photos, by the portfolio's first schedule with half its steps at
160 px, and shown its own test photos and those of the other sets. Weights in `--weights` are kept.
With `--folds`, a network is trained for each fold of train and validation, and rates are theirs.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from contestants import markdown
from numpy.typing import NDArray
from recipe_task import BACKBONE, PhotoList, Photos
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from study.config.portfolio import portfolio
from study.deployment.reference import known_distances, known_misfits, measured
from study.searching.fitting import data_facts
from study.statistics.conformal import Known, beyond, limit, p_values, sets
from trainers.base import BEST, LAST, StageTask
from trainers.classifier import Classifier, load
from trainers.data.cache import Cache
from trainers.data.folds import in_folds
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.device import choose_compute
from trainers.finetuner import Finetuner
from trainers.metrics import Metric

SETS = ("grocery12", "roses-tulips", "trash6", "xray3")
PIXELS, STRANGERS = 160, 300
RATE = 0.05

Table = NDArray[np.float64]
Score = Callable[[Table, Table], Table]
"""From (probabilities, features) of photos to how unlike the training photos each is."""


def photos_of(source: Path, folds: int) -> Manifest:
    """Read a set, dealt into folds if there are any."""
    manifest = build_manifest(source)
    return in_folds(manifest, folds, seed=0) if folds else manifest


def train(manifest: Manifest, target: Path) -> None:
    """Train a network on a set, or one for each fold, and keep the best epoch."""
    recipe = portfolio(data_facts(manifest, ()), BACKBONE, "pretrained")[0]
    *before, last = (replace(stage, image_size=PIXELS) for stage in recipe.stages)
    last = replace(last, min_steps=round(last.min_steps / 2))
    with TemporaryDirectory() as work:
        trainer = Finetuner(
            manifest,
            metric=Metric.ACCURACY,
            compute=choose_compute("cpu"),
            cache=Cache(Path(work) / "cache", manifest),
        )
        start = None
        for prefix in replace(recipe, stages=(*before, last)).prefixes():
            folder = Path(work) / prefix.digest
            folder.mkdir()
            for _ in trainer.train(StageTask(schedule=prefix, seed=0, folder=folder, start=start)):
                pass
            start = folder / LAST
        shutil.copyfile(folder / BEST, target)


def seen(classifier: Classifier, photos: Sequence[Path]) -> tuple[Table, Table]:
    """Return the probabilities and the features of photos."""
    rows = [row for _, row in classifier.look(photos) if isinstance(row, np.ndarray)]
    table = np.array(rows, float)[:, 0]
    n_classes = len(classifier.classes)
    return table[:, :n_classes], table[:, n_classes:]


def scores(features: Table, labels: NDArray[np.int64]) -> dict[str, Score]:
    """Return what is compared, by name, each fitted to the training photos."""
    known = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.array([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    covariance, _ = ledoit_wolf(features - means[labels])
    precision = np.linalg.inv(covariance)

    def nearest(k: int) -> Score:
        def score(_: Table, new: Table) -> Table:
            cosines = new / np.linalg.norm(new, axis=1, keepdims=True) @ known.T
            return 1 - np.sort(cosines, axis=1)[:, -k]

        return score

    def mahalanobis(_: Table, new: Table) -> Table:
        off = new[:, None] - means
        found: Table = np.einsum("ncf,fg,ncg->nc", off, precision, off, optimize=True).min(axis=1)
        return found

    return {
        "1 - largest probability": lambda probabilities, _: 1 - probabilities.max(axis=1),
        "Mahalanobis": mahalanobis,
        **{f"neighbour {k}": nearest(k) for k in (1, 5, 20)},
    }


def adaptive(probabilities: Table) -> Table:
    """Return each class's score in adaptive sets (Romano, Sesia, Candes 2020): all down to it."""
    order = np.argsort(-probabilities, axis=1)
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    found = np.empty_like(sums)
    np.put_along_axis(found, order, sums, axis=1)
    return found


def measure(name: str, data: Path, weights: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row for each score, and print what sets come to."""
    photos = PhotoList.read(data / f"{name}.csv")
    classifier = load(weights)
    (_, of_train), (p_valid, of_valid), (p_test, of_test) = (
        seen(classifier, split.paths) for split in (photos.train, photos.valid, photos.test)
    )
    strangers = [PhotoList.read(data / f"{other}.csv").test for other in SETS if other != name]
    others = [seen(classifier, spread(each)) for each in strangers]
    print(sets_row(name, photos, p_valid, p_test), flush=True)
    for what, score in scores(of_train, photos.train.labels).items():
        own, new = score(p_test, of_test), [score(*each) for each in others]
        highest = limit([Known.of_photos(score(p_valid, of_valid))], RATE)
        truth = np.repeat([0, 1], [len(own), sum(map(len, new))])
        yield (
            name,
            what,
            f"{roc_auc_score(truth, np.concatenate([own, *new])):.4f}",
            f"{min(auroc(own, each) for each in new):.4f}",
            f"{100 * (own > highest).mean():.1f}",
            f"{100 * (np.concatenate(new) > highest).mean():.1f}",
        )


def auroc(own: Table, new: Table) -> float:
    """Return how well photos of one other set are told."""
    truth = np.repeat([0, 1], [len(own), len(new)])
    return float(roc_auc_score(truth, np.concatenate([own, new])))


def spread(photos: Photos) -> list[Path]:
    """Return some photos, evenly spread over all."""
    count = min(STRANGERS, len(photos))
    return [photos.paths[i * len(photos) // count] for i in range(count)]


def sets_row(name: str, photos: PhotoList, p_valid: Table, p_test: Table) -> str:
    """Say how often sets at 90 % hold a test photo's class, and how large they are."""
    cells = [name, f"{(p_test.argmax(1) == photos.test.labels).mean():.3f}"]
    for classes_of in (lambda p: 1 - p, adaptive):
        known = classes_of(p_valid)[np.arange(len(p_valid)), photos.valid.labels]
        shares = p_values([Known.of_photos(known)], classes_of(p_test)[None])
        found = sets(shares, p_test, 0.1)
        held = found[np.arange(len(p_test)), photos.test.labels]
        cells += [f"{100 * held.mean():.1f}", f"{found.sum(axis=1).mean():.2f}"]
    return f"| {' | '.join(cells)} |"


def measure_folds(name: str, data: Path, weights: Path, folds: int) -> tuple[str, ...]:
    """Return what rates come to where each fold's network measures on its own fold."""
    photos, manifest = PhotoList.read(data / f"{name}.csv"), photos_of(data / f"{name}.csv", folds)
    classifier = load(weights)
    dealt = replace(manifest, photos=manifest.of_split(Split.VALID))
    references = measured(classifier, dealt)
    far, misfits = known_distances(references), known_misfits(references)

    def look(some: Sequence[Path]) -> tuple[Table, NDArray[np.float32]]:
        rows = [row for _, row in classifier.look(some, references=references)]
        by_network = np.stack(rows, axis=1)
        return p_values(far, by_network[..., -1]), by_network[..., :-1]

    others = [
        look(spread(PhotoList.read(data / f"{other}.csv").test))[0]
        for other in SETS
        if other != name
    ]
    p, probabilities = look(photos.test.paths)
    mean = probabilities.mean(axis=0)
    found = sets(p_values(misfits, 1 - probabilities), mean, 0.1)
    held = found[np.arange(len(mean)), photos.test.labels]
    return (
        name,
        str(len(dealt.photos)),
        f"{(mean.argmax(axis=1) == photos.test.labels).mean():.3f}",
        f"{100 * beyond(p, RATE).mean():.1f}",
        f"{100 * beyond(np.concatenate(others), RATE).mean():.1f}",
        f"{100 * held.mean():.1f}",
        f"{found.sum(axis=1).mean():.2f}",
    )


def main() -> None:
    """Train what is not there, measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with NAME.csv")
    parser.add_argument("--weights", type=Path, required=True, help="a folder for weights")
    parser.add_argument("--folds", type=int, default=0, help="in how many folds; 0 for a split")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.weights.mkdir(exist_ok=True)
    rows = []
    for name in SETS:
        weights = given.weights / f"{name}{f'-{given.folds}' * bool(given.folds)}.safetensors"
        if not weights.is_file():
            train(photos_of(given.data / f"{name}.csv", given.folds), weights)
        if given.folds:
            rows.append(measure_folds(name, given.data, weights, given.folds))
            print(rows[-1], flush=True)
        else:
            rows += measure(name, given.data, weights)
    if given.folds:
        told = ("own test photos unknown, %", "others, %", "holds the class, %", "classes in a set")
        print(markdown(("photos", "in folds", "accuracy", *told), rows))
        return
    head = ("photos", "score", "AUROC", "least AUROC", "own test photos, %", "others, %")
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
