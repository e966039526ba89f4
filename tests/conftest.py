"""What the tests of a whole search share: databases, labs and photos."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image

from storage.database import open_database
from tests.lab import Lab, schedule, stage
from tests.object_store import ObjectStore
from tests.postgres import Server
from trainers.data.manifest import Manifest, build_manifest
from trainers.schedule import Schedule

# Before anybody imports torch, here or in a program that a test starts: as many tests run at a time
# as there are cores, and threads of several torches fight for these.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests, and programs that they start, would else compile all that they import each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Each run draws other examples; `--hypothesis-profile default` tries a hundred at once.
settings.register_profile("quick", max_examples=25)
settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that was imported: searches make it run often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(
    params=[
        pytest.param(False, id="sampled"),
        pytest.param(True, id="every one", marks=pytest.mark.slow),
    ]
)
def every(request: pytest.FixtureRequest) -> bool:
    """Return whether to kill a search at every moment: otherwise `tests.crashes.chosen` ones do."""
    return bool(request.param)


@pytest.fixture(scope="session", autouse=True)
def _optuna_knows_its_head() -> Iterator[None]:
    """Have Optuna read its migrations once in a process, not each time that it opens a database."""
    from optuna.storages._rdb.storage import _VersionManager

    read, known = _VersionManager.get_head_version, list[str]()

    def head(manager: _VersionManager) -> str:
        if not known:
            known.append(read(manager))
        return known[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "get_head_version", head)
        yield


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """Have all SQLite databases share what SQLAlchemy compiles: a fourth of a search on one."""
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as Dialect
    from sqlalchemy.engine import Engine
    from sqlalchemy.util import LRUCache

    compiled = LRUCache[Any, Any](4000)
    shared = property(lambda _: compiled, lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_compiled_cache", shared, raising=False)
        # What is compiled is found by its dialect; those of all databases are alike.
        patch.setattr(Dialect, "__hash__", lambda dialect: hash(type(dialect)))
        patch.setattr(Dialect, "__eq__", lambda one, other: type(one) is type(other))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty database with Optuna's tables and ours: to copy it takes no time."""
    from optuna.storages import RDBStorage

    path = tmp_path_factory.mktemp("template") / "encore.db"
    open_database(f"sqlite:///{path}").dispose()
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Start a PostgreSQL server for the tests that need one."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def _object_store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture
def object_store(_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Return an S3 server, whose address and keys are in the environment."""
    for name, value in _object_store.variables.items():
        monkeypatch.setenv(name, value)
    return _object_store


@pytest.fixture
def make_lab(tmp_path: Path, template: Path) -> Callable[..., Lab]:
    """Return what makes a study in a folder of its own."""
    made = iter(range(10_000))

    def make(*script: Schedule, **settings: Any) -> Lab:
        return Lab(tmp_path / f"lab{next(made)}", script, template=template, **settings)

    return make


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Make a manifest of tiny photos; the class names would be markup to a terminal."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("[bold]roses", "[red]tulips", "ünï :fire:")):
        (root / name).mkdir()
        for index in range(50):
            Image.new("RGB", (2, 2), (index, label, 7)).save(root / name / f"{index}.png")
    return build_manifest(root)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, template: Path, photos: Manifest) -> Lab:
    """Search once: four schedules (one diverges, one repeats a beginning), two seeds more each."""
    good, weak = stage(64, 1e-3, 3), stage(32, 1e-4, 2)
    script = (
        schedule(weak),
        schedule(good, stage(128, 1e-3, 2)),
        schedule(good, stage(96, 2e-3, 2)),
        schedule(stage(32, 50.0)),
    )
    folder = tmp_path_factory.mktemp("finished") / "lab"
    lab = Lab(folder, script, manifest=photos, template=template, repeats=2, finalists=2)
    lab.search()
    return lab


@pytest.fixture
def finished(_finished: Lab, tmp_path: Path) -> Lab:
    """Return a finished study on real photos' labels that the test may damage."""
    copied = tmp_path / "finished"
    shutil.copytree(_finished.folder, copied)
    lab = Lab(copied, _finished.script, manifest=_finished.manifest)
    lab.config = _finished.config.model_copy(update={"storage": lab.url})
    return lab
