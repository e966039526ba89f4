"""A network as ONNX, TorchScript and torch.export: the same answers, or no file at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from study.deployment.reference import known_distances
from study.statistics.conformal import beyond, enough, limit, p_values
from tests.tiny_training import card_of, network_of
from trainers import exporting
from trainers.backbone import Network
from trainers.checkpoint import save_weights
from trainers.classifier import Classifier, load
from trainers.errors import ExportRefused
from trainers.exporting import export_network, photo_squares, random_squares
from trainers.folded import FoldNetworks
from trainers.formats import Format
from trainers.mirrored import judging
from trainers.reference import Joined, Reference, distances, rounded

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


def network(backbone: str = "test_resnet") -> Network:
    """Build a tiny network whose BatchNorm has seen squares, and whose logits lie apart."""
    built = network_of(backbone=backbone)
    torch.manual_seed(0)
    built.train()(torch.rand(8, 3, 32, 32))
    with torch.no_grad():
        built.head[-1].weight.mul_(20)
    return built.eval()


def classifier(folder: Path, built: Network | None = None, **card: Any) -> Classifier:
    """Write a network's weights, and load them."""
    built = built or network()
    path = folder / "weights.safetensors"
    save_weights(path, built.state_dict(), card_of(**{"image_size": 32, **card}))
    return load(path)


def reader(kind: Format, path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Open an exported file as its user would; return what it answers, and its note."""
    if kind is Format.ONNX:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        note = {prop.key: prop.value for prop in onnx.load(path).metadata_props}["encore"]
        return lambda x: torch.from_numpy(session.run(None, {"squares": x.numpy()})[0]), note
    note = {"encore": ""}
    if kind is Format.TORCHSCRIPT:
        return torch.jit.load(path, _extra_files=note), note["encore"].decode()
    return torch.export.load(path, extra_files=note).module(), note["encore"]


def in_each_format(others: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """Try TorchScript, the quickest; `others` marks ONNX, the docs' example's, and torch.export."""
    marked = [pytest.param(kind, marks=others) for kind in (Format.ONNX, Format.TORCH_EXPORT)]
    return pytest.mark.parametrize("kind", [Format.TORCHSCRIPT, *marked])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        ("test_resnet", Format.TORCHSCRIPT),  # docs/exported.md's example is tried with ONNX
        *(
            pytest.param("test_resnet", kind, marks=pytest.mark.long)
            for kind in (Format.ONNX, Format.TORCH_EXPORT)
        ),
        pytest.param("test_vit", Format.ONNX, marks=pytest.mark.slow),
        pytest.param("test_vit", Format.TORCHSCRIPT, marks=pytest.mark.long),
        pytest.param("test_vit", Format.TORCH_EXPORT, marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", Format.TORCHSCRIPT, marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite0", Format.ONNX, marks=pytest.mark.slow),
    ],
)
def test_each_format_answers_as_the_network(backbone: str, kind: Format, tmp_path: Path) -> None:
    """At batch sizes it has never seen, an exported file gives the logits of torch."""
    built = network(backbone)
    made = classifier(tmp_path, built, backbone=backbone)
    path = tmp_path / "out" / kind.file_name
    path.parent.mkdir()
    found = export_network(made, path, kind, random_squares(made), '{"classes": ["\\u2740"]}')
    assert list(path.parent.iterdir()) == [path]
    answer, note = reader(kind, path)
    assert note == '{"classes": ["\\u2740"]}'
    largest = 0.0
    for size in (1, 2, 5, 17):
        squares = torch.rand(size, 3, 32, 32)
        with torch.no_grad():
            expected, logits = built(squares), answer(squares)
        assert expected.std() > 0.01  # logits that are all the same would prove nothing
        assert logits.numpy() == pytest.approx(expected.numpy(), abs=1e-4)
        largest = max(largest, float((logits - expected).abs().max()))
    assert 0 <= found < 1e-4
    assert (found > 0) == (largest > 0)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::FutureWarning")
@in_each_format(others=pytest.mark.slow)
def test_mirror_images_are_part_of_an_exported_network(kind: Format, tmp_path: Path) -> None:
    """Of weights judged with them, the softmax of the file's logits is the mean of both."""
    built = network()
    made, path = classifier(tmp_path, built, tta=True), tmp_path / kind.file_name
    export_network(made, path, kind, random_squares(made))
    answer, _ = reader(kind, path)
    for size in (1, 5):
        squares = torch.rand(size, 3, 32, 32)
        with torch.no_grad():
            one, other = built(squares).softmax(1), built(squares.flip(3)).softmax(1)
            found = answer(squares).softmax(1)
        assert (one - other).abs().max() > 1e-3  # the network does tell them apart
        assert found.numpy() == pytest.approx(((one + other) / 2).numpy(), abs=1e-5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_labels_that_are_certain_are_exported_with_mirror_images(tmp_path: Path) -> None:
    """Probabilities of several labels that are 0 and 1 as floats still have finite logits."""
    built = network()
    with torch.no_grad():
        built.head[-1].weight.mul_(1000)
    made = classifier(tmp_path, built, tta=True, kind="labels", format_version="2")
    path, squares = tmp_path / "model.onnx", torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert built(squares).abs().max() > 200  # float32 has no sigmoid of -200
        export_network(made, path, Format.ONNX, random_squares(made))
        expected = made.objective.mean(built(squares), built(squares.flip(3)))
    answer, _ = reader(Format.ONNX, path)
    assert answer(squares).numpy() == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@in_each_format(others=pytest.mark.long)
def test_an_exported_network_says_how_far_photos_are(kind: Format, tmp_path: Path) -> None:
    """At any batch size, as `look` measures it; its logits stay what they were, mirrored too."""
    built = network()
    made, path = classifier(tmp_path, built, tta=True), tmp_path / kind.file_name
    squares = random_squares(made)
    with torch.no_grad():
        known = rounded(built.features(torch.rand(5, 3, 32, 32)).numpy())
    four = np.zeros(4, np.float32)
    export_network(made, path, kind, squares, references=[Reference("", known, four, four)])
    if kind is Format.ONNX:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        assert [each.name for each in session.get_outputs()] == ["logits", "distance"]
    answer = exporting._READERS[kind](path)
    for size in (1, 5):
        shown = torch.from_numpy(squares[:size]).permute(0, 3, 1, 2).float() / 255
        logits, far = answer(shown)
        with torch.no_grad():
            expected = distances(built.features(shown).numpy(), known)
            judged = judging(built, tta=True)(shown)
        assert far.numpy() == pytest.approx(expected, abs=1e-5)
        assert logits.numpy() == pytest.approx(judged.numpy(), abs=1e-4)
        assert expected.min() > 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")
@in_each_format(others=pytest.mark.slow)
def test_exported_folds_join_their_distances(kind: Format, tmp_path: Path) -> None:
    """Above the limit are the photos with p-values of at most the rate; logits are the mean's."""
    networks = [network_of(seed=seed) for seed in range(2)]
    path = tmp_path / "weights.safetensors"
    save_weights(path, FoldNetworks(networks).state_dict(), card_of(image_size=32, folds=2))
    made, squares = load(path), random_squares(network := load(path), 60)
    shown = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        features = [each.features(shown).numpy() for each in network.networks]
    known, new = slice(10, 40), slice(40, 60)
    each = [
        Reference("", near := rounded(of[:10]), distances(of[known], near), np.zeros(30, "f4"))
        for of in features
    ]
    far = np.array(
        [distances(of[new], one.features) for of, one in zip(features, each, strict=True)]
    )
    there, rate = known_distances(each), 0.4
    joined = Joined(
        [one.scores for one in there],
        [one.weights for one in there],
        limit=limit(there, rate),
        enough=enough(there, rate),
    )
    out = tmp_path / kind.file_name
    export_network(made, out, kind, squares, "", each, joined)
    logits, found = exporting._READERS[kind](out)(shown[new])
    assert (found.numpy() > limit(there, rate)).tolist() == beyond(
        p_values(there, far), rate
    ).tolist()
    assert 0 < (found > limit(there, rate)).sum() < 20
    assert ((found.numpy() > far.min(0) - 1e-6) & (found.numpy() < far.max(0) + 1e-6)).all()
    with torch.no_grad():
        assert logits.numpy() == pytest.approx(made.network(shown[new]).numpy(), abs=1e-4)


class Wrong(nn.Module):
    """A network that answers wrongly in some way; `scale` is its largest logit."""

    def __init__(self, right: nn.Module, how: str, scale: float) -> None:
        super().__init__()
        self.right, self.how, self.scale = right, how, scale

    def forward(self, squares: Tensor) -> Tensor:
        """Answer nearly right."""
        logits: Tensor = self.right(squares)
        if self.how == "no numbers":
            return logits / (logits - logits)
        if self.how == "a class more":
            return torch.cat([logits, logits[:, :1]], 1)
        if self.how == "always two squares":
            return logits[:1].repeat(2, 1)
        share = {"shifted": 0.003, "a little": 0.0002}[self.how]
        return logits + torch.tensor([0.0, share * self.scale])


def write_wrongly(monkeypatch: pytest.MonkeyPatch, how: str, scale: float) -> None:
    """Let TorchScript files come out wrong."""

    def write(right: nn.Module, *rest: Any) -> None:
        exporting._write_torchscript(Wrong(right, how, scale), *rest)

    monkeypatch.setitem(exporting._WRITERS, Format.TORCHSCRIPT, write)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("shifted", "a logit differs by"),
        ("no numbers", "a logit differs by inf"),
        ("a class more", r"logits of shape \(1, 3\) for a batch of 1"),
        ("always two squares", r"logits of shape \(2, 2\) for a batch of 1"),
    ],
)
def test_a_wrong_graph_is_refused(
    how: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that answers otherwise never gets its name, and what was there stays."""
    made, path = classifier(tmp_path), tmp_path / "out" / "model.pt"
    squares = random_squares(made)
    with torch.no_grad():
        logits = made.network(torch.from_numpy(squares).permute(0, 3, 1, 2) / 255)
        scale = logits.abs().max().item()
    path.parent.mkdir()
    path.write_text("the file before")
    write_wrongly(monkeypatch, how, scale)
    with pytest.raises(ExportRefused, match=says):
        export_network(made, path, Format.TORCHSCRIPT, squares)
    assert [*path.parent.iterdir()] == [path]
    assert path.read_text() == "the file before"
    write_wrongly(monkeypatch, "a little", scale)  # below a thousandth of the largest logit
    assert 0 < export_network(made, path, Format.TORCHSCRIPT, squares) < 1e-3 * scale


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that fails halfway leaves no half of a file, and its own error is told."""

    def fill_the_disk(_network: nn.Module, _square: Tensor, made: Path, _note: str) -> None:
        made.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    made = classifier(tmp_path)
    monkeypatch.setitem(exporting._WRITERS, Format.TORCHSCRIPT, fill_the_disk)  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="No space"):
        export_network(made, tmp_path / "out" / "a.pt", Format.TORCHSCRIPT, random_squares(made))
    assert [*(tmp_path / "out").iterdir()] == []


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A network that returns NaN is not written: there is nothing to compare."""
    built = network()
    with torch.no_grad():
        built.head[-1].bias.fill_(torch.nan)
    made = classifier(tmp_path, built)
    with pytest.raises(ExportRefused, match="differs by inf"):
        export_network(made, tmp_path / "a.pt", Format.TORCHSCRIPT, random_squares(made))
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("crop", ["random", "no"])
def test_photos_are_shown_as_the_classifier_sees_them(crop: str, tmp_path: Path) -> None:
    """The squares to verify on give the probabilities that `predict` gives for the photos."""
    made, rng = classifier(tmp_path, crop=crop), np.random.default_rng(0)
    paths = [tmp_path / f"{index}.jpg" for index in range(3)]
    for path in paths:
        pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((180, 140)).save(path)
    (tmp_path / "note.jpg").write_text("no photo")
    squares = photo_squares(made, [paths[0], tmp_path / "note.jpg", *paths[1:]])
    with torch.no_grad():
        logits = made.network(torch.from_numpy(squares).permute(0, 3, 1, 2) / 255)
    assert logits.softmax(1).numpy() == pytest.approx(made.predict(paths), abs=1e-6)
    assert len(np.unique(squares.reshape(3, -1), axis=0)) == 3
    with pytest.raises(LookupError, match="none of the 1 photos"):
        photo_squares(made, [tmp_path / "note.jpg"])
