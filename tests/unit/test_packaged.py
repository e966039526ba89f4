"""Backbones whose weights are packages: which are here, and at what image size."""

import pytest

from trainers.backbone import native_size
from trainers.packaged import NATIVE_SIZES, PACKAGED_WEIGHTS, packaged_backbones


def test_the_backbones_that_are_here_are_those_whose_package_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The default's package always is; another's counts once it can be imported."""
    folder = tmp_path_factory.mktemp("packages")
    monkeypatch.syspath_prepend(str(folder))
    before = packaged_backbones()
    assert before[0] == "tf_efficientnet_lite0"
    module, _ = PACKAGED_WEIGHTS["tf_efficientnet_lite2"]
    (folder / f"{module}.py").touch()
    assert {*packaged_backbones()} == {*before, "tf_efficientnet_lite2"}


def test_native_sizes_are_those_of_timm() -> None:
    """What is known without timm is what timm says."""
    assert NATIVE_SIZES.keys() == PACKAGED_WEIGHTS.keys()
    assert {name: native_size(name) for name in NATIVE_SIZES} == NATIVE_SIZES


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnext_tiny.in12k_ft_in1k", 288),
        ("vit_small_patch16_224.augreg_in21k_ft_in1k", 224),
        ("vit_base_patch16_siglip_224.v2_webli", 224),
    ],
)
def test_backbones_of_the_hub_have_native_sizes(name: str, size: int) -> None:
    """The names that README recommends are timm's; the size for testing counts."""
    assert native_size(name) == size


def test_an_unknown_backbone_has_no_native_size() -> None:
    """It is refused as everywhere."""
    with pytest.raises(ValueError, match="backbone must be the name of a timm model"):
        native_size("convnxt_tiny")
