"""Whether a study's photos are still there and as they were."""

from collections.abc import Sequence

from trainers.data.manifest import DatasetError, Manifest, Split
from trainers.data.sources import sample
from trainers.data.verify import read_all


def check_photos(
    study: str, manifest: Manifest, splits: Sequence[Split] = (Split.TRAIN, Split.VALID)
) -> None:
    """Raise `DatasetError` if photos of these splits are gone or changed."""
    photos = [photo for split in splits for photo in manifest.of_split(split)]
    found = read_all([manifest.root / p.path for p in photos], {p.sha256 for p in photos})
    odd = [p.path for p, f in zip(photos, found, strict=True) if p.sha256 != f.sha256]
    if odd:
        raise DatasetError(
            f"{len(odd)} photos of study {study!r} are missing or changed in {manifest.root} "
            f"({sample(odd)}); put them back as they were"
        )
