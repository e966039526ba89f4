"""The Dockerfile's claims, as far as they show without a container engine: it is not built here."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with its arguments in one line."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found = re.findall(r"^(\w+) (.+)$", lines.replace("\\\n", ""), re.MULTILINE)
    return [(name, arguments) for name, arguments in found]


def arguments_of(name: str) -> list[str]:
    """Return the arguments of each instruction of a name."""
    return [arguments for each, arguments in instructions() if each == name]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Make the folder that an engine would send: what .dockerignore lets through, and no more."""
    first, *rules = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert first == "*"
    folder = tmp_path / "context"
    folder.mkdir()
    for rule in rules:
        if rule.startswith("!"):
            source = ROOT / rule[1:]
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / rule[1:])
    for ignored in folder.glob(rules[-1]):
        shutil.rmtree(ignored)
    return folder


@pytest.mark.parametrize("lint", ["hadolint Dockerfile", "shellcheck slurm.sbatch"])
def test_its_linter_has_nothing_to_say(lint: str) -> None:
    """Hadolint runs shellcheck over each RUN, too."""
    name, file = lint.split()
    beside = shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)
    if beside is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([beside, ROOT / "deploy" / file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_a_version_and_its_user_is_not_root() -> None:
    """So that the image of tomorrow is that of today, and a photo's flaw meets no root."""
    assert arguments_of("FROM") == ["${PYTHON}"]
    assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-\w+", arguments_of("ARG")[0])
    assert arguments_of("USER") == ["1000"]
    assert instructions().index(("USER", "1000")) > max(
        place for place, (name, _) in enumerate(instructions()) if name == "RUN"
    )


def test_requirements_are_installed_before_the_code_is_there(context: Path) -> None:
    """Its own one-liner, run on what is copied by then, lists pyproject.toml's requirements."""
    steps = [f"{name} {arguments}" for name, arguments in instructions()]
    (listing,) = (step for step in steps if "tomllib" in step)
    copied, code = "COPY pyproject.toml constraints.txt ./", "COPY . ."
    assert steps.index(copied) < steps.index(listing) < steps.index(code)
    for path in context.iterdir():
        if path.name not in copied.split():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    script, extras = shlex.split(listing)[3:5]
    assert extras == "$EXTRAS"
    for extras in ("", "onnx,lite"):
        done = subprocess.run(
            [sys.executable, "-c", script, extras],
            cwd=context, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lists = [PROJECT["optional-dependencies"][name] for name in extras.split(",") if name]
        assert done.stdout.splitlines() == sum(lists, PROJECT["dependencies"])


def modules(root: Path) -> set[str]:
    """Return all files of the floors in a folder."""
    return {
        path.relative_to(root).as_posix()
        for floor in ("storage", "study", "trainers")
        for path in (root / floor).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_all_modules_reach_the_engine(context: Path) -> None:
    """With all pages and migrations, and what a wheel is built by."""
    assert modules(context) == modules(ROOT)
    for name in ("cli.py", "setup.py", "pyproject.toml", "encore/__main__.py"):
        assert (context / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.slow
def test_what_reaches_the_engine_is_enough_to_install(context: Path, tmp_path: Path) -> None:
    """Encore's wheel comes out of it, with all modules, pages, migrations and the entry point."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    subprocess.run([*pip, "--no-deps", "--wheel-dir", tmp_path, context], check=True, timeout=300)
    (wheel,) = tmp_path.glob("encore_search-*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert (
            f"{arguments_of('ENTRYPOINT')[0][2:-2]} = encore.__main__:main"
            in archive.read(entry).decode()
        )
    assert {f"encore/_packages/{path}" for path in modules(ROOT)} <= names
