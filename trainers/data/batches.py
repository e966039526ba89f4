"""How many batches a pass over photos has, and how many passes an epoch. Free of torch."""

from trainers.schedule import Stage


def passes_of(stage: Stage, photos: int) -> int:
    """Return the passes per epoch over `n_photos`, for at least the stage's `min_steps`."""
    return -(-stage.min_steps // len(slices(photos, stage.batch_size)))


def slices(photos: int, size: int) -> list[slice]:
    """Split a number of photos into batches."""
    # A lone last photo joins the batch before it: BatchNorm cannot learn from one sample.
    starts = [start for start in range(0, photos, size) if start == 0 or photos - start > 1]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], photos], strict=True)]
