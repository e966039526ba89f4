"""Formats of exported networks, and the description of their preprocessing. Free of torch."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from trainers.schedule import CropType

if TYPE_CHECKING:  # it imports torch
    from trainers.card import WeightsCard

LONGEST, REDUCTIONS = 4, (8, 4, 2, 1)
"""Copies of numbers in `trainers.data.scale` and `trainers.data.photo`."""

INPUT, OUTPUT, DISTANCE = "squares", "logits", "distance"
"""What a graph calls what it takes and what it gives; the last where unknown photos are told."""


class Format(StrEnum):
    """A file that holds a network together with its weights."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    TORCH_EXPORT = "torch-export"

    @property
    def file_name(self) -> str:
        """The name of the file in the folder that `export` makes."""
        return {"onnx": "model.onnx", "torchscript": "model.pt"}.get(self.value, "model.pt2")


def describe(card: "WeightsCard") -> dict[str, Any]:
    """Describe in words and numbers a network's input, its output and its meaning."""
    rule = card.rule
    return {
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, card.image_size, card.image_size],
            "type": "float32",
            "range": [0.0, 1.0],
            "colours": "RGB",
        },
        "normalisation": {
            "by": "the network itself: give it values from 0 to 1",
            "mean": list(card.mean),
            "std": list(card.std),
        },
        "preprocessing": _preprocessing(card.image_size, CropType(card.crop)),
        "output": {
            "name": OUTPUT,
            "shape": ["batch", len(card.classes)],
            "type": "float32",
            "meaning": f"logits in the order of `classes`; {_meaning(card)}",
            "mirror_images": card.tta,
        },
        "classes": list(card.classes),
        "decision": _of_labels(card)
        if card.several
        else {
            "words": (
                "Raise the probabilities, at least 1e-7 each, to the power of 1 / temperature and "
                "divide them by their sum. What it costs on average to name class j is the sum "
                "over i of probability[i] * costs[i][j]. Name the cheapest class; if even that "
                "costs more than reject_cost (where there is one), name none: ask a person."
            ),
            **rule.to_dict(),
            "threshold": rule.threshold,
            "default": card.decision is None,
        },
    }


def _of_labels(card: "WeightsCard") -> dict[str, Any]:
    return {
        "words": "Each label is there whose probability is at least its threshold.",
        "thresholds": list(card.thresholds or [0.5] * len(card.classes)),
        "default": card.thresholds is None,
    }


def _meaning(card: "WeightsCard") -> str:
    if not card.several:
        return f"their softmax is {_softmax(card.tta)}"
    return f"each one's sigmoid is, for that label, {_softmax(card.tta)}"


def _softmax(tta: bool) -> str:
    if not tta:
        return "the probabilities"
    return "the mean of the probabilities of a square and of its mirror image, which it makes"


def _preprocessing(size: int, crop: CropType) -> dict[str, Any]:
    from trainers.data.scale import DETAIL, validation_scale  # PIL, which --help does not need

    scale = validation_scale(size, crop)
    squeezed = f"Resize to {size} x {size} (bilinear, antialiased), whatever the shape."
    cut = (
        (
            f"If one side is longer than {2 * LONGEST} times the other, leave out its ends, "
            f"max(0, side // 2 - {LONGEST} * short) pixels at each."
        ),
        (
            f"Resize (bilinear, antialiased) so that the short side is {size}: both sides are "
            f"round(side * ({size} / short)), halves to the even number."
        ),
        (
            f"Cut {size} x {size} from the middle: left = (width - {size}) // 2, "
            f"top = (height - {size}) // 2."
        ),
    )
    return {
        "image_size": size,
        "crop": crop.value,
        "squeeze": scale.squeeze,
        "resampling": "PIL.Image.Resampling.BILINEAR",
        "longest": LONGEST,
        "jpeg_detail": DETAIL,
        "jpeg_reductions": list(REDUCTIONS),
        "divide_by": 255,
        "steps": [
            "Open the photo's first frame with PIL.",
            (
                f"Decode a JPEG at 1/r of its size (PIL's `draft`), where r is the first of "
                f"{', '.join(map(str, REDUCTIONS))} that is at most "
                f"max(1, short side // {DETAIL * size})."
            ),
            (
                "Scale 16-bit grey to 8 bits by dividing by 257 and rounding; wider grey from "
                "0..1, 0..255 or 0..65535, the narrowest that holds all its values."
            ),
            "Turn it as its EXIF orientation says.",
            "Lay what is transparent on white; make it 8-bit RGB.",
            *([squeezed] if scale.squeeze else cut),
            f"Divide by 255 and put colours first: float32 (3, {size}, {size}).",
        ],
    }
