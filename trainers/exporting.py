"""A network as a file that runs without this project: ONNX, TorchScript or torch.export.

Each file is read back and verified against the network before it gets its name.
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.classifier import Classifier
from trainers.data.scale import read_at, validation_scale
from trainers.errors import ExportRefused, UnreadablePhoto
from trainers.folded import each_network
from trainers.formats import DISTANCE, INPUT, OUTPUT, Format
from trainers.mirrored import judging
from trainers.reference import Measuring, Reference
from trainers.schedule import CropType

TOLERANCE = 1e-3
"""The largest accepted difference of a logit, as a share of the largest logit."""

_SMALLEST_SCALE = 0.01
"""A floor: an untrained head's logits are near 0, where rounding errors are relatively large."""

_BATCHES = (1, 3, 16)
"""Batch sizes to verify with: the last one for all remaining squares."""

_NOTE = "encore"

_Answer = Callable[[Tensor], tuple[Tensor, ...]]
"""From squares (B, 3, S, S) to logits (B, C), and distances (B,) on request."""


def export_network(
    classifier: Classifier,
    path: Path,
    kind: Format,
    squares: NDArray[np.uint8],
    note: str = "",
    references: Sequence[Reference] = (),
    joined: nn.Module | None = None,
) -> float:
    """Write a network, whole or not at all; return the largest difference of a logit on `squares`.

    For weights with `tta`, the network makes the mirror images itself: its logits are those of the
    mean. `squares` are (N, S, S, 3), as of `photo_squares`; they are shown in batches of several
    sizes. With `references`, it also outputs each square's distance from the training photos, of
    several networks `joined` (`trainers.reference.Measuring`). `note` is kept in the file, under
    "encore". Raises `ExportRefused` if the file does not answer as the network does, and leaves
    what was at `path`.
    """
    # The memory format is for speed on the classifier's device, not part of the network.
    own = copy.deepcopy(classifier.network).cpu()
    own.to(memory_format=torch.contiguous_format)
    tta, objective = classifier.card.tta, classifier.objective
    network = (
        Measuring(each_network(own), references, joined, tta=tta, objective=objective)
        if references
        else judging(own, tta=tta, objective=objective)
    )
    network.eval()
    size = classifier.card.image_size
    # Two squares: with one, torch would specialise on a batch size of 1.
    square = torch.full((2, 3, size, size), 0.5)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as beside, _quiet():
        made = Path(beside) / path.name
        try:
            _WRITERS[kind](network, square, made, note)
            answer = _READERS[kind](made)
            found = _compare(network, answer, squares)
        except Exception as error:  # torch may raise anything for a network that it cannot trace
            if isinstance(error, (ExportRefused, OSError, ImportError)):
                raise
            reason = str(error).strip().partition("\n")[0][:200]
            raise ExportRefused(
                f"{classifier.card.backbone} could not be exported as {kind} "
                f"({type(error).__name__}: {reason}); try another --format"
            ) from error
        made.replace(path)
    return found


def photo_squares(classifier: Classifier, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Read photos as the network wants them, (N, S, S, 3); those that cannot be read are left out.

    Raises LookupError if that leaves none.
    """
    card, squares = classifier.card, []
    scale = validation_scale(card.image_size, CropType(card.crop))
    for path in paths:
        try:
            squares.append(read_at(path, [scale])[0])
        except (UnreadablePhoto, OSError):
            continue
    if not squares:
        raise LookupError(f"none of the {len(paths)} photos to verify on can be read")
    return np.stack(squares)


def random_squares(classifier: Classifier, count: int = 20) -> NDArray[np.uint8]:
    """Return fixed squares of noise, coarse and fine, for use without photos."""
    size = classifier.card.image_size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    places = np.arange(size) * 4 // size
    large: NDArray[np.uint8] = coarse[:, places][:, :, places]
    fine = rng.integers(0, 32, large.shape, dtype=np.uint8)
    return np.maximum(large, fine)


def _compare(network: nn.Module, answer: _Answer, squares: NDArray[np.uint8]) -> float:
    """Return the largest difference of a logit; raises `ExportRefused` if it is too large."""
    pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in _outputs(network)]
    for batch in _batches(squares):
        with torch.inference_mode():
            expected = _all(network(batch))
        found = answer(batch)
        shapes = [[tuple(each.shape) for each in given] for given in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ExportRefused(
                f"the exported network gave {OUTPUT} of shape {shapes[0][0]} for a batch of "
                f"{len(batch)}, {shapes[1][0]} were expected; nothing was written"
            )
        for outputs, pair in zip(pairs, zip(expected, found, strict=True), strict=True):
            outputs.append(pair)
    logits, *_ = [_difference(*each) for each in zip(("logit", "distance"), pairs, strict=False)]
    return logits


def _difference(what: str, outputs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of an output that is expected from one that is found."""
    expected, found = (torch.cat(each) for each in zip(*outputs, strict=True))
    # NaN, which max() might ignore, is an infinite difference.
    difference = torch.nan_to_num((found - expected).abs(), nan=torch.inf, posinf=torch.inf)
    largest = float(difference.max())
    scale = max(_SMALLEST_SCALE, float(expected.abs().max()))
    if not largest <= TOLERANCE * scale:
        raise ExportRefused(
            f"the exported network must answer as the trained one, but a {what} differs by "
            f"{largest:.3g} where {TOLERANCE * scale:.3g} may be; nothing was written"
        )
    return largest


def _all(made: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def _batches(squares: NDArray[np.uint8]) -> Iterator[Tensor]:
    """Yield batches of 1, of 3 and then of 16; few squares are repeated."""
    fewest = sum(_BATCHES)
    shown = squares if len(squares) >= fewest else np.resize(squares, (fewest, *squares.shape[1:]))
    start, sizes = 0, [*_BATCHES]
    while start < len(shown):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        batch = torch.from_numpy(shown[start : start + size])
        yield batch.permute(0, 3, 1, 2).contiguous().float() / 255
        start += size


def _write_onnx(network: nn.Module, square: Tensor, made: Path, note: str) -> None:
    import onnx

    program = torch.onnx.export(
        _program(network, square),
        input_names=[INPUT],
        output_names=_outputs(network),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise ExportRefused("torch gave no ONNX graph")
    program.save(made, external_data=False)
    whole = onnx.load(made)
    for place in (*whole.graph.input, *whole.graph.output):
        place.type.tensor_type.shape.dim[0].dim_param = "batch"  # torch numbers it: "s92"
    onnx.helper.set_model_props(whole, {_NOTE: note})
    onnx.checker.check_model(whole)
    onnx.save(whole, made)


def _write_torchscript(network: nn.Module, square: Tensor, made: Path, note: str) -> None:
    # torch's own check compares on the traced squares only, which proves less.
    traced = torch.jit.trace(network, (square,), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, made, _extra_files={_NOTE: note.encode()})


def _write_program(network: nn.Module, square: Tensor, made: Path, note: str) -> None:
    torch.export.save(_program(network, square), made, extra_files={_NOTE: note})


def _program(network: nn.Module, square: Tensor) -> torch.export.ExportedProgram:
    shapes = {INPUT: {0: torch.export.Dim("batch")}}
    return torch.export.export(network, (square,), dynamic_shapes=shapes)


def _outputs(network: nn.Module) -> list[str]:
    return [OUTPUT, DISTANCE] if isinstance(network, Measuring) else [OUTPUT]


def _read_onnx(made: Path) -> _Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    return lambda batch: tuple(map(torch.from_numpy, session.run(None, {INPUT: batch.numpy()})))


def _read_torchscript(made: Path) -> _Answer:
    network = torch.jit.load(made, map_location="cpu")  # type: ignore[no-untyped-call]
    return _without_gradients(network)


def _read_program(made: Path) -> _Answer:
    return _without_gradients(torch.export.load(made).module())


def _without_gradients(network: Callable[[Tensor], Any]) -> _Answer:
    def answer(batch: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _all(network(batch))

    return answer


_WRITERS: Mapping[Format, Callable[[nn.Module, Tensor, Path, str], None]] = {
    Format.ONNX: _write_onnx,
    Format.TORCHSCRIPT: _write_torchscript,
    Format.TORCH_EXPORT: _write_program,
}
_READERS: Mapping[Format, Callable[[Path], _Answer]] = {
    Format.ONNX: _read_onnx,
    Format.TORCHSCRIPT: _read_torchscript,
    Format.TORCH_EXPORT: _read_program,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of torch and timm that are meant for developers of exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
