"""What pyproject.toml cannot say: in the wheel, all of Encore lies below the one package `encore`.

The repository has `study`, `storage`, `trainers` and `cli.py` at its top. Installed like that, they
would meet others of these names: a distribution's `storage`, or a user's own `study.py`. So the
build puts them into `encore/_packages` and has their imports say so. After that, Python, pickle,
spawned processes and Ray see plain modules of that name: nothing is changed at run time.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

BELOW = "encore._packages"
TOPS = ("study", "storage", "trainers", "cli")

_FROM = re.compile(rf"^(\s*from )({'|'.join(TOPS)})(?=[. ])", re.MULTILINE)
_PLAIN = re.compile(rf"^\s*import ({'|'.join(TOPS)})\b.*$", re.MULTILINE)


def moved(source: str) -> str:
    """Return a module's source with its imports as they are below `encore`.

    Raises ValueError for `import study...`, which names its module by its whole path wherever it
    is used.
    """
    if plain := _PLAIN.search(source):
        raise ValueError(f"write `from ... import ...`, got {plain[0].strip()!r}")
    return _FROM.sub(rf"\g<1>{BELOW}.\g<2>", source)


class BuildBelow(build_py):
    """Copies the modules, then moves their imports; also of migrations, which are data."""

    def run(self) -> None:
        """Build."""
        super().run()
        for file in (Path(self.build_lib) / "encore").rglob("*.py"):
            file.write_text(moved(file.read_text(encoding="utf-8")), encoding="utf-8")


class EditableEncore(editable_wheel):
    """Installs the name `encore` alone; `encore/__init__.py` finds the others beside it."""

    def run(self) -> None:
        """Install."""
        self.distribution.packages = ["encore"]
        self.distribution.py_modules = None
        self.distribution.package_dir = {"encore": "encore"}
        super().run()


if __name__ == "__main__":
    inner = find_packages(include=[f"{top}*" for top in TOPS])
    setup(
        packages=["encore", *(f"{BELOW}.{package}" for package in inner)],
        py_modules=[f"{BELOW}.cli"],
        package_dir={BELOW: ""},
        package_data={
            f"{BELOW}.storage": ["migrations/*.py", "migrations/versions/*.py"],
            f"{BELOW}.study": ["report/assets/*", "report/templates/*"],
        },
        cmdclass={"build_py": BuildBelow, "editable_wheel": EditableEncore},
    )
