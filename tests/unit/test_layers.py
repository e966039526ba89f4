"""The house's floors: imports run down, in no circle, and each library stays in its room."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.lab import Lab
from trainers.data.cache import Cache
from trainers.data.scale import Scale
from trainers.data.sources import Split

ROOT = Path(__file__).parents[2]
FLOORS = ("trainers", "storage", "study", "cli")
"""From the ground up: a floor may import itself and those before it."""

ROOMS = (
    ("criterion", "errors", "invocation", "sanitizing", "stage_text", "stage_tree"),
    ("config", "forecast", "formatting", "statistics"),
    ("budget", "engines", "studies"),
    ("events",),
    ("datasets",),
    ("provenance",),
    ("selection",),
    ("deployment", "searching"),
    ("dashboard", "history"),
    ("views",),
    ("report",),
    ("commands", "face"),
)
"""The rooms of `study`, from the ground up: each may import those of the floors below it alone."""

LIBRARIES = {
    "optuna": (
        "study.searching.optuna_study",
        "study.searching.drafts",
        "study.searching.optuna_storage",
        "study.dashboard",
    ),
    "optuna_dashboard": ("study.dashboard.serve",),
    "sqlalchemy": ("storage",),
    "alembic": ("storage",),
    "fsspec": ("storage.remote",),
    "s3fs": (),
    "gcsfs": (),
    "ray": ("study.engines.ray_",),
    "rich": ("study.commands", "study.views"),
    "click": ("cli", "study.commands"),
    "pandas": ("study.report.tables", "study.face"),
    "plotly": ("study.report", "study.face"),
    "IPython": ("study.views.notebook",),
    "jinja2": ("study.report",),
    "matplotlib": ("study.dashboard.pictures",),
    "cleanlab": ("trainers.data.inspect.labels",),
    "captum": ("trainers.attribution",),
    "onnx": ("trainers.exporting",),
    "onnxruntime": ("trainers.exporting",),
}
"""Where a library may be known, by the start of the module's name."""

GROUND = ("trainers.schedule", "trainers.metrics", "trainers.errors", "trainers.files")
"""What the store may take from the trainers: free of torch."""

LIGHT = (
    "trainers.data.scale",
    "trainers.data.pixels",
    "trainers.data.cache",
    "trainers.data.decoding",
    "study.history.cleanup",
    "trainers.allowance",
)
"""What has to do with decoded photos, and no need of torch."""

SCALE = Scale(24, squeeze=False, cut=True)

HEAVY = ("torch", "torchvision", "timm", "optuna", "pandas", "sklearn", "matplotlib", "plotly")


@dataclass(frozen=True)
class Import:
    """One import: `runs` says whether it happens when the module is imported."""

    source: str
    target: str
    runs: bool


@cache
def modules() -> dict[str, Path]:
    """Find all modules of the program by name."""
    files = [ROOT / "cli.py", *(f for top in FLOORS[:3] for f in (ROOT / top).rglob("*.py"))]
    return {_name(file): file for file in files}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> tuple[Import, ...]:
    """Read every import of every module, those inside functions too."""
    return tuple(
        found
        for name, file in modules().items()
        for found in _in(ast.parse(file.read_text(encoding="utf-8")), name, runs=True)
    )


def _in(node: ast.AST, source: str, *, runs: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                yield from (Import(source, alias.name, runs) for alias in child.names)
            case ast.ImportFrom(module=module, level=level):
                assert level == 0, f"{source} has a relative import of {module}"
                for alias in child.names:
                    # `from study import config` means the module, if there is one.
                    inner = f"{module}.{alias.name}"
                    target = inner if inner in modules() else str(module)
                    yield Import(source, target, runs)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from _in(child, source, runs=False)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _in(child, source, runs=False)
            case _:
                yield from _in(child, source, runs=runs)


def test_the_reader_of_imports_reads() -> None:
    """The other tests here stand on something: known imports are found, with their kind."""
    assert Import("study.config.schema", "pydantic", True) in imports()
    assert Import("study.searching.coordinator", "study.searching.optuna_study", False) in imports()
    assert Import("study.dashboard.serve", "optuna_dashboard", False) in imports()
    assert len(modules()) > 50


def test_imports_run_down_only() -> None:
    """Cli over study over storage over trainers, also inside functions."""
    wrong = [
        found
        for found in imports()
        if found.target.split(".")[0] in FLOORS
        and FLOORS.index(found.target.split(".")[0]) > FLOORS.index(found.source.split(".")[0])
    ]
    assert wrong == []


def test_rooms_import_those_below_them() -> None:
    """Each room of `study` has its floor, and imports none beside or above it."""
    floor = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    between = {
        (found.source.split(".")[1], found.target.split(".")[1])
        for found in imports()
        if found.source.startswith("study.") and found.target.startswith("study.")
    }
    rooms = {name.split(".")[1] for name in modules() if name.startswith("study.")}
    assert rooms == set(floor)
    assert [(a, b) for a, b in between if a != b and floor[a] <= floor[b]] == []


def test_the_store_takes_only_what_is_torch_free_of_the_trainers() -> None:
    """Storage knows schedules and metrics, and nothing that trains."""
    taken = {
        found.target
        for found in imports()
        if found.source.startswith("storage") and found.target.startswith("trainers")
    }
    assert taken <= set(GROUND)


def test_there_is_no_circle() -> None:
    """Modules can be put into an order in which each imports only earlier ones, for typing too."""
    below: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        if found.target in below and found.target != found.source:
            below[found.source].add(found.target)
    while free := {name for name, needed in below.items() if not needed}:
        below = {name: needed - free for name, needed in below.items() if name not in free}
    assert below == {}, "these import each other in a circle"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_room(library: str) -> None:
    """Who would replace it has to look there only."""
    users = {found.source for found in imports() if found.target.split(".")[0] == library}
    strangers = {
        user
        for user in users
        if not any(f"{user}.".startswith(_start(room)) for room in LIBRARIES[library])
    }
    assert strangers == set()


def _start(room: str) -> str:
    return room if room.endswith("_") else f"{room}."


def test_no_use_case_imports_another_for_a_helper() -> None:
    """A use case may call another one by its name, as `export` calls `best`, and take no more."""
    cases = {
        name: ast.parse(file.read_text(encoding="utf-8"))
        for name, file in modules().items()
        if file.read_text(encoding="utf-8").startswith('"""Use case')
    }
    taken = {
        (name, f"{node.module}.{alias.name}")
        for name, tree in cases.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in cases
        for alias in node.names
        if alias.name != str(node.module).split(".")[-1]
    }
    assert len(cases) > 10
    assert taken == set()


def run_light(code: str, folder: Path) -> None:
    """Run Python; `check(what)` in it fails if a heavy library has been loaded."""
    script = f"""
import sys
import cli

def check(what):
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, f"{{what}} has loaded {{loaded}}"

{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def run_commands(commands: list[tuple[list[str], int]], folder: Path) -> None:
    """Run commands that must end with these exit codes and load nothing heavy."""
    lines = (
        f"assert cli.run({arguments!r}) == {code}\ncheck({arguments!r})"
        for arguments, code in commands
    )
    run_light("\n".join(lines), folder)


def test_light_commands_load_nothing_heavy(tmp_path: Path) -> None:
    """Help and mistakes are answered without the seconds that torch and Optuna take."""
    every = ([], ["search"], ["best"], ["compare"], ["dashboard"], ["gc"], ["tree"], ["plan"])
    helps = [([*command, "--help"], 0) for command in every]
    nothing_there = [(command, 5) for command in (["best"], ["ls"], ["show", "0"], ["gc"])]
    mistakes = [(["search", flag, "-1"], 2) for flag in ("--trials", "--cache-limit")]
    run_commands([*helps, *nothing_there, *mistakes, (["gc", "--cache"], 0)], tmp_path)


@pytest.mark.long
def test_what_prepares_photos_loads_nothing_heavy(tmp_path: Path) -> None:
    """Where photos lie and how they are decoded can be known without the seconds of torch."""
    run_light("\n".join(f"import {name}\ncheck({name!r})" for name in LIGHT), tmp_path)


def test_reading_a_study_loads_nothing_heavy(finished: Lab, tmp_path: Path) -> None:
    """`best`, `ls` and `show` on a real study read rows alone, `gc` decoded photos alone."""
    assert finished.manifest
    Cache(finished.folder / ".cache", finished.manifest).prepare([(Split.VALID, SCALE)])
    commands = [["best"], ["best", "--json"], ["ls"], ["show", "0"], ["show", "0", "--json"]]
    commands += [["best", "--by", "mean"], ["compare", "0", "1"]]
    commands += [["gc", "--cache"], ["gc", "--cache", "--delete"]]
    run_commands([([*command, "--storage", finished.url], 0) for command in commands], tmp_path)
    assert list((finished.folder / ".cache").rglob("*.pixels")) == []


@pytest.mark.long
def test_the_public_face_loads_nothing_heavy(tmp_path: Path) -> None:
    """`from study import ...` costs a notebook no torch before something is trained."""
    run_light("from study import *\nassert search and best\ncheck('the public face')", tmp_path)


def test_all_is_what_the_public_face_offers() -> None:
    """Each name of `__all__` can be had, and is the very thing that its own module has."""
    import study

    for name in study.__all__:
        thing = getattr(study, name)
        assert thing is getattr(sys.modules[thing.__module__], name)
    assert set(study.__all__) == set(study._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = study.nothing


def test_what_others_import_stays_where_it_was() -> None:
    """Trainers and programs of one's own were written against these."""
    from trainers import errors
    from trainers.base import BEST, LAST, StageTask, TrainingDiverged, WeightsUnavailable
    from trainers.classifier import load
    from trainers.data.manifest import Manifest, Split
    from trainers.data.sources import DatasetError
    from trainers.metrics import EpochMetrics, Evaluation

    assert (TrainingDiverged, WeightsUnavailable, DatasetError) == (
        errors.TrainingDiverged,
        errors.WeightsUnavailable,
        errors.DatasetError,
    )
    assert all((BEST, LAST, StageTask, load, Manifest, Split, EpochMetrics, Evaluation))


def test_each_error_has_its_exit_code() -> None:
    """Those of all three floors, by class: what is drawn in `trainers.errors` and no more."""
    import storage.errors
    import study.errors
    import trainers.errors

    every = [
        kind
        for module in (trainers.errors, storage.errors, study.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, trainers.errors.EncoreError)
    ]
    drawn = str(trainers.errors.__doc__)
    assert [kind.__name__ for kind in every if kind.__name__ not in drawn] == []
    codes = {kind.__name__: kind.exit_code for kind in every if kind.exit_code != 1}
    assert codes == {
        "ConfigError": 2,
        "NoSuchData": 2,
        "NoSuchStudy": 2,
        "NotADatabase": 2,
        "NotInStudy": 2,
        "TooManyFailures": 3,
        "DatasetError": 4,
        "NothingToSelect": 5,
        "StudyNotFound": 5,
    }
