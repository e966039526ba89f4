"""The contestant probe: scikit-learn's logistic regression on features, apart from Encore.

Of Encore it has the body with its packaged weights alone; photos are read by Pillow.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from recipe_task import Answer, PhotoList, Stopwatch, asked_of, log_loss, packaged_body
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

SIZES = (160, 224, 288)
BATCH = 32
STRENGTHS = tuple(10.0**power for power in np.arange(-5, 1.01, 0.5))
"""Values of C, of which cross-validation on the training photos chooses."""

Features = NDArray[np.float32]


def square(path: Path, size: int) -> NDArray[np.uint8]:
    """Read the middle square of a photo, scaled to `size`."""
    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR))


@torch.inference_mode()
def features(body: nn.Module, paths: Sequence[Path], size: int, *, mirrored: bool) -> Features:
    """Return the body's pooled features, shape (photos, features)."""
    found, config = [], cast("Any", body).pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    for first in range(0, len(paths), BATCH):
        pixels = np.stack([square(path, size) for path in paths[first : first + BATCH]])
        squares = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        squares = squares.flip(3) if mirrored else squares
        squares = squares.contiguous(memory_format=torch.channels_last)
        found.append(body((squares - mean) / std).numpy())
    return np.concatenate(found)


def fitted(plain: Features, mirror: Features, labels: NDArray[np.int64]) -> Pipeline:
    """Fit photos and mirror images; a photo and its own lie in the same fold."""
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": STRENGTHS},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(5, shuffle=True, random_state=0),
    )
    photos = np.arange(len(labels))
    search.fit(
        np.concatenate([plain, mirror]),
        np.concatenate([labels, labels]),
        groups=np.concatenate([photos, photos]),
    )
    return search.best_estimator_


def probe(body: nn.Module, photos: PhotoList, size: int, clock: Stopwatch) -> tuple[Answer, float]:
    """Fit and evaluate at one image size; also returns the validation's log loss."""
    began, began_cpu = clock.seconds, clock.cpu
    plain, mirror = (
        features(body, photos.train.paths, size, mirrored=mirrored) for mirrored in (False, True)
    )
    extracted = clock.cpu
    model = fitted(plain, mirror, photos.train.labels)
    valid = model.predict_proba(features(body, photos.valid.paths, size, mirrored=False))
    with clock.stopped():
        test = model.predict_proba(features(body, photos.test.paths, size, mirrored=False))
        flipped = model.predict_proba(features(body, photos.test.paths, size, mirrored=True))
    answer = Answer(
        contestant=f"probe, {size} px",
        valid_errors=len(photos.valid.wrong(valid.argmax(1))),
        test_wrong=photos.test.wrong(test.argmax(1)),
        test_photos=len(photos.test),
        train_photos=len(photos.train),
        seconds=clock.seconds - began,
        cpu_seconds=clock.cpu - began_cpu,
        settings={
            "size": size,
            "C": float(model[-1].C),
            "CPU seconds of the training photos' features": extracted - began_cpu,
            "test errors with mirror images": len(photos.test.wrong((test + flipped).argmax(1))),
        },
    )
    return answer, log_loss(valid, photos.valid.labels)


def refitted(body: nn.Module, photos: PhotoList, chosen: Answer, clock: Stopwatch) -> Answer:
    """Fit at the chosen size on train and validation photos together."""
    size, both = chosen.settings["size"], photos.train + photos.valid
    model = fitted(
        *(features(body, both.paths, size, mirrored=mirrored) for mirrored in (False, True)),
        both.labels,
    )
    with clock.stopped():
        test = model.predict(features(body, photos.test.paths, size, mirrored=False))
    return replace(
        chosen,
        contestant="probe, refit",
        test_wrong=photos.test.wrong(test),
        train_photos=len(both),
        seconds=clock.seconds,
        cpu_seconds=clock.cpu,
    )


def main() -> None:
    """Compete at each size; print all, the best, and the best trained on validation as well."""
    asked = asked_of(__doc__)
    torch.set_num_threads(asked.threads)
    clock, photos = Stopwatch(asked.began), PhotoList.read(asked.data)
    body = packaged_body().eval()
    fits = [probe(body, photos, size, clock) for size in SIZES]
    for answer, _ in fits:
        answer.print()
    best, _ = min(fits, key=lambda fit: (fit[0].valid_errors, fit[1]))
    replace(best, contestant="probe", seconds=clock.seconds, cpu_seconds=clock.cpu).print()
    refitted(body, photos, best, clock).print()


if __name__ == "__main__":
    main()
