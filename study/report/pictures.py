"""The photos that a report shows: which of them, and as small pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from study.report.contents import Contents
from study.report.thumbnails import thumbnails
from study.report.worst_errors import worst_of

FIRST, MOST_IN_CELLS, MOST_PAIRS = 5, 240, 24
"""Maximum number of photos of the confusion matrix, and of pairs of duplicates."""


@dataclass(frozen=True)
class Pictures:
    """Small pictures by the photos' paths; `missing` counts those whose files cannot be read."""

    by_path: Mapping[str, str] = field(default_factory=dict, repr=False)
    missing: int = 0


def pictures(contents: Contents, cells: Sequence[Mapping[str, Any]], top: int) -> Pictures:
    """Make the pictures of the `top` worst errors, of a matrix's cells, and of duplicates.

    `cells` are those of the confusion matrix's panel. Where they have too many photos, the `FIRST`
    have all of theirs, and then each cell has its first before any has its second.
    """
    if contents.manifest is None:
        return Pictures()
    whole = (cell["photos"] for cell in cells[:FIRST])
    turns = zip_longest(*(cell["photos"] for cell in cells))
    shown = list(dict.fromkeys(place for place in chain(*whole, *turns) if place is not None))
    places = (*worst_of(contents, top), *shown[:MOST_IN_CELLS])
    wanted = [contents.photos[place].path for place in places]
    wanted += [pair[side]["path"] for pair in pairs(contents) for side in ("first", "second")]
    drawn = thumbnails(Path(contents.manifest.root), wanted)
    return Pictures(drawn, len(set(wanted)) - len(drawn))


def pairs(contents: Contents) -> Sequence[Mapping[str, Any]]:
    """Return the duplicates that are shown: what `check-data` found, the worst first."""
    return contents.check["pairs"][:MOST_PAIRS] if contents.check else ()


def photos_json(contents: Contents, cells: Sequence[Mapping[str, Any]], have: Pictures) -> Any:
    """Return by index what the page's script shows of the photos in the matrix's cells."""
    found = contents.predictions
    places = sorted({place for cell in cells for place in cell["photos"]})
    if found is None:
        return {}
    return {
        str(place): {
            "path": contents.photos[place].path,
            "probability": round(float(found.confidence[place]), 4),
            "src": have.by_path[contents.photos[place].path],
        }
        for place in places
        if contents.photos[place].path in have.by_path
    }
