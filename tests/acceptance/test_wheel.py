"""The wheel among strangers: another distribution's `storage`, and a user's own `study.py`."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_own_trainer import example
from tests.cluster import needs_ray
from tests.tiny_photos import reds_and_blues

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]

pytestmark = pytest.mark.slow

SETTINGS = (
    'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
    "image_size = [32]\nbatch_size = [64]\nlrs = [0.01, 0.02, 0.03, 0.04]\n"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, then packages of the names that the repository has at its top."""
    folder = tmp_path_factory.mktemp("installed")
    wheels = folder / "wheels"
    wheel = [*PIP, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(wheel, check=True, timeout=300)
    # The environment of the tests lends its packages, so that torch is not installed again.
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (built,) = wheels.glob("encore_search-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(built)], check=True)
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert top - {"bin"} == {"encore"}
    for name in ("storage", "trainers", "study", "cli"):
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise ImportError('not of Encore')\n")
    lent = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "lent.pth").write_text(lent + "\n")
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a user's folder: photos, settings, a study.py and a trainer that imports it."""
    reds_and_blues(tmp_path)
    (tmp_path / "study.toml").write_text(SETTINGS)
    (tmp_path / "study.py").write_text("MINE = True\n")
    (tmp_path / "mine.py").write_text(f"import study\nassert study.MINE\n{example()}")
    return tmp_path


def encore(site: Path, folder: Path, *words: str) -> str:
    """Run a command of the installed Encore in a user's folder, which is first on its path."""
    return python(site, folder, "-m", "encore", *words)


def python(site: Path, folder: Path, *words: str) -> str:
    """Run the Python that Encore is installed in, with no path to this checkout."""
    program = site.parents[2] / "bin" / "python"
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(program), *words],
        cwd=folder,
        env={**kept, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "how",
    [
        ("--engine", "processes", "--devices", "cpu:2"),
        pytest.param(("--engine", "ray", "--devices", "cpu:2"), marks=needs_ray),
        ("--engine", "processes", "--devices", "cpu:2", "--trainer", "mine:MyTrainer"),
    ],
    ids=["processes", "ray", "own trainer"],
)
def test_a_search_among_strangers(site: Path, folder: Path, how: tuple[str, ...]) -> None:
    """Its workers find Encore's modules and the user's, each under their name; so does the rest."""
    encore(site, folder, "search", "--data", "PHOTOS", "--trials", "2", *how)
    chosen = json.loads(encore(site, folder, "best", "--json"))
    assert (folder / chosen["file"]).exists()
    assert "report.html" in encore(site, folder, "report")
    findings = json.loads(encore(site, folder, "doctor", "--json"))
    assert {f["what"]: f["level"] for f in findings}["database"] == "good"


def test_an_editable_install_has_one_name(tmp_path: Path) -> None:
    """`encore` alone can be imported from elsewhere: what lies beside it has no name out there."""
    site = tmp_path / "site"
    install = [*PIP, "install", "--no-deps", "--target", str(site), "--editable", str(ROOT)]
    subprocess.run(install, check=True, timeout=300)
    asked = (
        "import site, sys\nfrom importlib.util import find_spec\nsite.addsitedir(sys.argv[1])\n"
        "names = ('encore', 'study', 'storage', 'trainers', 'cli')\n"
        "print(*filter(find_spec, names))\n"
    )
    program = [sys.executable, "-I", "-S", "-c", asked, str(site)]
    done = subprocess.run(program, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["encore"]


def test_a_program_among_strangers(site: Path, folder: Path) -> None:
    """`import encore` and `import study` are two things, before and after a search."""
    (folder / "program.py").write_text(
        "import encore, study\n"
        "if __name__ == '__main__':\n"
        "    settings = dict(backbone='test_resnet', weights='random', portfolio=False)\n"
        "    found = encore.search(data='PHOTOS', trials=2, devices='cpu:2', **settings)\n"
        "    import storage_of_mine, study\n"
        "    assert study.MINE and found.ended == 2, found\n"
        "    print(found.best())\n"
    )
    (folder / "storage_of_mine.py").write_text("")
    assert python(site, folder, "program.py").startswith("<Selection: trial ")
