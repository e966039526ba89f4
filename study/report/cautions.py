"""Reasons to doubt a score: leaks, a single seed, few photos."""

from collections.abc import Iterator

from study.formatting import count_text, photos_text
from study.selection.result import Selection

FEW = 200
"""With fewer validation photos, a single error changes a score by more than half a point."""

FEW_OF_CLASS = 20
"""With fewer photos, a recall moves by more than five points with each of them."""


def cautions(chosen: Selection) -> Iterator[str]:
    """Yield a sentence for each reason to doubt the winner's score, the most important first."""
    if chosen.leak_text:
        yield f"{chosen.leak_text}."
    if chosen.n_valid < FEW:
        yield (
            f"Few photos: on {count_text(chosen.n_valid, 'validation photo')} one error more or "
            f"less is {100 / chosen.n_valid:.1f} points of accuracy."
        )
    if chosen.n_groups is not None:
        yield (
            f"The {photos_text(chosen.n_valid, chosen.n_groups)} are not independent: intervals "
            "and tests count groups."
        )
    smallest = min(chosen.per_class, key=lambda numbers: numbers.photos)
    if smallest.photos < FEW_OF_CLASS and chosen.n_valid >= FEW:
        name = chosen.classes[chosen.per_class.index(smallest)]
        yield (
            f"The class {name} has {count_text(smallest.photos, 'validation photo')}: its recall "
            "and precision are rough."
        )
    if len(chosen.seed_scores) < 2:
        yield (
            "One seed only: the variance between seeds is unknown. The same search with "
            "--repeats 3 trains the best schedules again under other seeds."
        )
