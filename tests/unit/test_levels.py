"""Inner levels: what the head sees of a body, in training, in files and cut in two."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tiny_training import CPU, card_of, network_of
from trainers.backbone import Network, features_of
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.cut import cut_of
from trainers.exporting import export_network, random_squares
from trainers.formats import Format
from trainers.probe import fit_probe
from trainers.schedule import Balance, Schedule, Stage

SIZE = 40


def squares(count: int = 4) -> Tensor:
    """Make squares of noise."""
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def means_seen(network: Network, layers: list[nn.Module]) -> list[Tensor]:
    """Return the means over places of what these layers give, by hooks."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: seen.append(output.mean((2, 3))))
        for layer in layers
    ]
    network.features(squares())
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("backbone", "layers", "widths"),
    [
        ("tf_efficientnet_lite0", ["blocks.4", "blocks.5", "blocks.6"], (1280, 112, 192, 320)),
        # Its last stage is what is pooled: that is not seen twice.
        ("test_resnet", ["layer2", "layer3"], (96, 48, 192)),
    ],
)
def test_the_head_sees_the_last_stages_as_well(
    backbone: str, layers: list[str], widths: tuple[int, ...]
) -> None:
    """The pooled features, then the mean over places of each stage's output, the last ones last."""
    network = network_of(backbone=backbone, levels=3).eval()
    with torch.no_grad():
        features = network.features(squares())
        plain = network.body((squares() - network.mean) / network.std)
        inner = means_seen(network, [network.body.get_submodule(name) for name in layers])
    assert network.widths == widths == (features_of(network.body), *widths[1:])
    assert torch.equal(features, torch.cat([plain, *inner], 1))


def test_without_levels_the_head_sees_what_it_always_saw() -> None:
    """No parameter, key or digest of schedules that were made before is another."""
    plain = Schedule(backbone="test_resnet", stages=(Stage(image_size=24),))
    assert "levels" not in plain.to_dict()
    three = Schedule(backbone="test_resnet", stages=(Stage(image_size=24),), levels=3)
    assert Schedule.from_json(three.to_json()) == three
    assert three.digest != plain.digest
    with pytest.raises(ValueError, match="levels must be at most 8 levels, got 9"):
        Schedule(backbone="test_resnet", stages=(Stage(image_size=24),), levels=9)


def test_a_body_without_levels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence that says what to do."""
    kind = type(network_of().body)
    monkeypatch.delattr(kind, "forward_intermediates")
    with pytest.raises(ValueError, match="levels must be 0 for ResNet"):
        network_of(levels=2)


@pytest.mark.parametrize("share", [0.35, 0.5, 0.65, 1.0])
def test_a_cut_network_sees_the_same_levels(share: float) -> None:
    """Where all levels lie behind the cut, or with everything that is pooled."""
    network = network_of(backbone="tf_efficientnet_lite0", levels=3).eval()
    network.freeze(share)
    cut = cut_of(network, share, SIZE)
    assert cut is not None
    with torch.no_grad():
        found = cut.tail(cut.restored(cut.rows(squares(), CPU, 4)))
        expected = network(squares())
    assert torch.allclose(found, expected, atol=5e-3 * float(expected.abs().max()))


def test_a_level_before_the_cut_leaves_the_network_whole() -> None:
    """What is frozen could be kept, but the levels inside of it would be lost."""
    network = network_of(backbone="tf_efficientnet_lite0", levels=3).eval()
    assert cut_of(network, 0.85, SIZE) is None


def test_kept_features_of_other_levels_are_others() -> None:
    """The cache takes features of one network for another's only where they are the same."""
    digests = {
        cut.digest
        for levels in (0, 2, 3)
        if (cut := cut_of(network_of(levels=levels).eval(), 1.0, SIZE))
    }
    assert len(digests) == 3


def test_all_levels_count_alike_in_a_probe() -> None:
    """Whatever a level's scale and however many features it has: the same answers come of it."""
    rng = np.random.default_rng(0)
    labels = torch.arange(60) % 3
    centres = rng.normal(0, 1, (3, 12))
    features = torch.from_numpy(centres[labels.numpy()] + rng.normal(0, 2, (60, 12))).float()
    scales = torch.tensor([1.0] * 8 + [300.0] * 4)
    answers = []
    for each in (features, features * scales):
        head = nn.Sequential(nn.BatchNorm1d(12, eps=0), nn.Dropout(), nn.Linear(12, 3))
        fit_probe(head, each, each, labels, Balance.NONE, (8, 4))
        answers.append(head.eval()(each))
        norm: Any = head[0]
        first, second = each.var(0, correction=0).split((8, 4))
        assert torch.allclose(norm.running_var[:8], first.mean(), rtol=1e-4)
        assert torch.allclose(norm.running_var[8:], second.mean() / 2, rtol=1e-4)
    assert torch.allclose(*answers, atol=1e-3)


@pytest.mark.parametrize(
    "kind", [Format.TORCHSCRIPT, pytest.param(Format.ONNX, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_with_levels_work_wherever_weights_do(kind: Format, tmp_path: Path) -> None:
    """Loaded from a file and exported, which checks the answers itself."""
    network, path = network_of(levels=2).eval(), tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), card_of(levels=2, image_size=32))
    made = load(path)
    with torch.no_grad():
        assert torch.allclose(made.network(squares()), network(squares()), atol=1e-6)
    assert export_network(made, tmp_path / kind.file_name, kind, random_squares(made), "{}") < 1e-4
