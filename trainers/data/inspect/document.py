"""The findings on a data set as a plain document: for JSON, the database and pages."""

from typing import Any

from trainers.data.inspect.findings import Cue, Doubt, FlawedPhoto, Inspection, Pair
from trainers.data.manifest import Parted, Photo

FORMAT = 1
"""Version of the document."""

MOST = 2000
"""Maximum number of listed findings of each kind; their count is always given."""


def document_of(found: Inspection) -> dict[str, Any]:
    """Return an inspection in plain values: labels by name, photos by path."""
    say = _Words(found)
    return {
        "format": FORMAT,
        "manifest": found.manifest_digest,
        "classes": list(found.classes),
        "photos": found.photos,
        "counts": {
            split.value: dict(zip(found.classes, counts, strict=True))
            for split, counts in found.counts.items()
        },
        "n_pairs": len(found.pairs),
        "n_leaks": len(found.leaks),
        "n_conflicts": len(found.conflicts),
        "pairs": [say.pair(pair) for pair in worst_first(found.pairs)[:MOST]],
        "groups": [[photo.path for photo in group] for group in found.groups[:MOST]],
        "n_groups": len(found.groups),
        "parted": [say.parted(group) for group in found.parted[:MOST]],
        "n_parted": len(found.parted),
        "uncompared": found.uncompared,
        "flaws": [say.flaw(flaw) for flaw in found.flaws[:MOST]],
        "n_flaws": len(found.flaws),
        "doubts": found.doubts and [say.doubt(doubt) for doubt in found.doubts[:MOST]],
        "n_doubts": None if found.doubts is None else len(found.doubts),
        "cues": [say.cue(cue) for cue in found.cues or ()],
    }


def worst_first(pairs: tuple[Pair, ...]) -> list[Pair]:
    """Put pairs across splits first, then those of two labels, then the most alike."""
    return sorted(pairs, key=lambda pair: (not pair.leaks, not pair.conflicts, -pair.agreement))


class _Words:
    """Turns findings into plain values."""

    def __init__(self, found: Inspection) -> None:
        self._classes = found.classes
        self._text = found.label_text

    def photo(self, photo: Photo) -> dict[str, Any]:
        return {
            "path": photo.path,
            "label": self._text(photo),
            "split": photo.split.value,
        }

    def pair(self, pair: Pair) -> dict[str, Any]:
        return {
            "first": self.photo(pair.first),
            "second": self.photo(pair.second),
            "likeness": pair.likeness.value,
            "agreement": round(pair.agreement, 4),
            "cosine": round(pair.cosine, 4),
            "mirrored": pair.mirrored,
            "leaks": pair.leaks,
            "conflicts": pair.conflicts,
        }

    def parted(self, group: Parted) -> dict[str, Any]:
        return {"group": group.group, **{split.value: n for split, n in group.photos.items()}}

    def flaw(self, flaw: FlawedPhoto) -> dict[str, Any]:
        return {**self.photo(flaw.photo), "flaw": flaw.flaw.value, "detail": flaw.detail}

    def doubt(self, doubt: Doubt) -> dict[str, Any]:
        return {
            **self.photo(doubt.photo),
            "suggested": self._classes[doubt.suggested],
            "suggested_probability": round(doubt.suggested_probability, 4),
            "own_probability": round(doubt.own_probability, 4),
        }

    def cue(self, cue: Cue) -> dict[str, Any]:
        return {
            "name": cue.name,
            "accuracy": round(cue.accuracy, 4),
            "chance": round(cue.chance, 4),
            "p_value": cue.p_value,
            "leaks": cue.leaks,
            "classes": [self._classes[index] for index in cue.classes],
        }
