"""A Ray cluster whose nodes come and go: no stage run is lost, and nothing is left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from study.config.loading import load_config, settings_of
from study.engines.base import EpochEnded, FailureKind, StageEnded, StageFailed
from study.engines.inline import InlineEngine
from study.engines.remote_worker import AwayWorker, BuildAway
from study.engines.setup import Setup, Training
from study.engines.slots import Slot
from study.errors import ConfigError
from study.searching.plan import plan
from tests import lab
from tests.cluster import NODE, ROOT, cluster, crash, needs_ray
from tests.contract.conftest import told
from tests.engines import Watched, all_dead, read, until, write
from tests.tiny_training import noise
from trainers.base import BEST, LAST, StageTask, Trainer

pytestmark = needs_ray

EPOCHS = 4
KEYS = "abcd"
SPACE = {"n_stages": [1], "image_size": [24], "batch_size": [8], "lrs": [0.01]}


class Placed(Watched):
    """Is watched in a folder that all nodes see, by the processes it had there."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.seconds_per_epoch = 0.2
        self.place = place

    def train(self, task: StageTask) -> Any:
        """Note the process, and train."""
        with (self.place / f"{task.folder.name}.pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        yield from super().train(task)


class Distant(AwayWorker):
    """Is on a machine that has not got the coordinator's folders."""

    def __init__(self, build: BuildAway, slot: Slot, _cache: Path) -> None:
        super().__init__(build, slot, Path("/not/here"))


def placed(_slot: Slot, cache: Path, place: Path) -> Trainer:
    """Build such a trainer; note what decoded photos it finds."""
    write(place / "found", str({path.name: path.read_bytes() for path in cache.glob("d/*")}))
    return Placed(place)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what makes an engine on a cluster; afterwards no process of its is left."""
    from study.engines.ray_cluster import ClusterEngine

    made: list[Any] = []

    def engine(address: str, retries: int = 2, **options: Any) -> Any:
        build = partial(placed, place=tmp_path)
        options |= {"cache": tmp_path, "address": address, "max_retries": retries}
        made.append(ClusterEngine(build, **options))
        return made[-1]

    yield engine
    for each in made:
        each.close()
    pids = [int(pid) for file in tmp_path.glob("*.pids") for pid in file.read_text().split()]
    until(lambda: all_dead(pids))


def task(folder: Path, key: str) -> StageTask:
    """Make a task in a folder of its own, named as its key."""
    (folder / key).mkdir(parents=True)
    schedule = lab.schedule(lab.stage(epochs=EPOCHS))
    return StageTask(schedule=schedule, seed=0, folder=folder / key)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a task; their metadata may be in any order."""
    return {path.name: bytes(sorted(path.read_bytes())) for path in folder.iterdir()}


@pytest.mark.slow
def test_a_node_that_dies_costs_an_epoch_and_one_that_joins_gets_work(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """Every stage run ends once, with the files of an undisturbed one; files come home first."""
    heard: list[str] = []
    with cluster(2) as nodes:
        engine, events, gone = make(nodes.address, say=heard.append), [], False
        for key in KEYS:
            engine.submit(key, task(tmp_path / "home", key))
        for event in engine.events():
            events.append(event)
            if isinstance(event, EpochEnded):
                assert (tmp_path / "home" / event.key / LAST).exists()
                assert (tmp_path / "home" / event.key / BEST).exists()
            if not gone and len({each.key for each in events}) == 2:  # both nodes train
                crash(nodes)
                gone = True
                nodes.add_node(**NODE)
        engine.close()
    assert "a worker on the Ray cluster was lost; its stage run goes on elsewhere" in heard
    assert any("a node has joined" in text for text in heard)
    again = [key for key in KEYS if len(read(tmp_path / f"{key}.pids").split()) > 1]
    assert gone
    assert len(again) == 1
    for key in KEYS:
        said = told(events, key)
        assert said[-5:] == [1, 2, 3, 4, StageEnded]
        assert said.count(StageEnded) == 1
        calm = InlineEngine(Watched())
        calm.submit(key, task(tmp_path / "calm", key))
        list(calm.events())
        assert files(tmp_path / "home" / key) == files(tmp_path / "calm" / key)


@pytest.mark.slow
def test_a_search_tells_of_a_lost_node_in_words_of_its_own(tmp_path: Path) -> None:
    """Not Ray's: on stdout there are the results alone."""
    command = [sys.executable, str(ROOT / "cli.py"), "search", "--trials", "4", "--engine", "ray"]
    with (
        cluster(2) as nodes,
        subprocess.Popen(
            [*command, "--address", nodes.address],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as search,
    ):  # fmt: skip
        next(line for line in search.stderr or () if line.startswith("trial 0"))
        crash(nodes)
        said, told_of = search.communicate(timeout=120)
    assert search.returncode == 0, told_of
    assert "a worker on the Ray cluster was lost; its stage run goes on elsewhere" in told_of
    assert said.startswith("best: ")
    assert "raylet" not in said + told_of


@pytest.mark.slow
def test_a_stage_run_that_loses_its_worker_too_often_fails(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """It has failed as killed; the next one is trained by a new worker."""
    with cluster() as nodes:
        engine, events = make(nodes.address, retries=0), []
        for key in "ab":
            engine.submit(key, task(tmp_path / "home", key))
        for event in engine.events():
            events.append(event)
            if told(events, "a") == [1]:
                os.kill(int(read(tmp_path / "a.pids")), signal.SIGKILL)
        engine.close()
    failed = next(each for each in events if isinstance(each, StageFailed))
    assert (failed.key, failed.kind) == ("a", FailureKind.KILLED)
    assert told(events, "b") == [1, 2, 3, 4, StageEnded]


@pytest.mark.slow
def test_an_interrupt_ends_what_trains_at_once(make: Callable[..., Any], tmp_path: Path) -> None:
    """The second Ctrl-C waits for no epoch, and the workers' processes are gone."""
    with cluster() as nodes:
        engine = make(nodes.address)
        engine.submit("a", task(tmp_path / "home", "a"))
        events = engine.events()
        next(events)
        with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt())
        until(lambda: all_dead([int(read(tmp_path / "a.pids"))]))


@pytest.mark.slow
def test_a_machine_without_the_decoded_photos_gets_them_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come through Ray, so nothing is decoded there and no disk is shared."""
    from study.engines import ray_cluster as engines

    monkeypatch.setattr(engines, "AwayWorker", Distant)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "ray").mkdir(parents=True)  # Ray notes its address there
    photos = tmp_path / "cache" / "d" / "train-64.pixels"
    with cluster() as nodes:
        build = partial(placed, place=tmp_path)
        engine = engines.ClusterEngine(
            build,
            cache=tmp_path / "cache",
            maps=lambda: list(tmp_path.glob("cache/d/*")),
            address=nodes.address,
        )
        assert engine.slots == 1
        photos.parent.mkdir(parents=True)  # decoded when the engine is there, as `search` does
        photos.write_bytes(b"photos")
        engine.submit("a", task(tmp_path / "home", "a"))
        assert told(list(engine.events()), "a") == [1, 2, 3, 4, StageEnded]
        engine.close()
    assert read(tmp_path / "found") == str({photos.name: b"photos"})
    assert list(tmp_path.glob("theirs/encore-*/cache/d/*")) != []


@pytest.mark.slow
def test_a_cluster_without_the_devices_asked_for_is_told_in_a_sentence(tmp_path: Path) -> None:
    """There is no wait for GPUs that do not exist, and Ray is left."""
    import ray

    from study.engines.ray_cluster import ClusterEngine

    build = partial(placed, place=tmp_path)
    with cluster() as nodes:
        with pytest.raises(ConnectionError, match="no node of the Ray cluster has a GPU"):
            ClusterEngine(build, cache=tmp_path, address=nodes.address, devices="cuda")
        assert not ray.is_initialized()


@pytest.mark.slow
def test_a_plan_counts_the_slots_of_all_nodes_and_times_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes halve the time on the wall."""
    monkeypatch.chdir(tmp_path)
    manifest = noise(tmp_path / "photos")
    with cluster(2) as nodes:
        found = plan(
            load_config(
                settings_of(
                    data=str(manifest.root), trials=2, backbone="test_resnet", weights="random",
                    portfolio=False, engine="ray", address=nodes.address, space=SPACE,
                )
            )
        )  # fmt: skip
    assert found.slots == 2
    assert found.wall_seconds == found.seconds / 2 > 0
    assert [line.image_size for line in found.stages] == [24]
    assert not (tmp_path / "runs" / "encore.db").exists()


@pytest.mark.parametrize(
    ("address", "says"),
    [("127.0.0.1:1", "refused"), ("no-such-host.invalid:6379", "no answer")],
)
def test_a_cluster_that_cannot_be_reached_is_told_in_a_sentence(
    make: Callable[..., Any], address: str, says: str
) -> None:
    """It names the address and says what to check."""
    with pytest.raises(ConnectionError, match=says) as raised:
        make(address)
    assert address in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_server_that_is_no_cluster_is_told_in_a_sentence(make: Callable[..., Any]) -> None:
    """It accepts the connection and never answers; the wait ends within seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Ray cluster at {address}"):
            make(address)


def test_other_versions_are_told_in_a_sentence(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own error has many lines; ours names the version here."""
    import ray

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("study.engines.ray_connection.check_reachable", lambda _: None)
    with pytest.raises(ConnectionError, match=rf"other versions.*Ray {ray.__version__}"):
        make("10.0.0.1:6379")


def test_without_ray_the_engine_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence, and no traceback of an import."""
    monkeypatch.setattr("study.engines.setup.find_spec", lambda _: None)
    config = load_config({"engine": "ray", "storage": f"sqlite:///{tmp_path / 'a.db'}"})
    with pytest.raises(ConfigError, match=r"\[ray\]"):
        Training(Setup(config), config, None).engine()  # type: ignore[arg-type]


@pytest.mark.long
def test_ray_is_not_imported_by_the_other_engines() -> None:
    """Who does not ask for a cluster does not pay for it."""
    code = """
import sys
from study.engines.setup import Setup, Training
from study.config.loading import load_config
from tests.engines import watched
for settings in ({}, {"engine": "processes"}, {"devices": "cpu:2"}):
    config = load_config({"devices": "cpu", **settings})
    made = type("Made", (), {"trainer": staticmethod(lambda slot, *, alone: watched(slot))})()
    Training(Setup(config), config, made).engine().close()
assert "study.engines.processes" in sys.modules
assert not [name for name in sys.modules if name.split(".")[0] == "ray"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT,
                   env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


STRANGERS = """
import os, subprocess, sys
from study.engines.ray_connection import join
import ray
own = subprocess.Popen(["sleep", "60"])  # a process of the user's
joined = join(None)
address = ray.get_runtime_context().gcs_address
ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
for variables in (plain, {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}, os.environ):
    print(subprocess.run(ask, env=variables, capture_output=True, timeout=60).returncode)
joined.close()
assert not {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"} & os.environ.keys(), "it is for our cluster alone"
assert not ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
assert own.poll() is None, "it has nothing to do with Ray"
own.kill()
"""


@pytest.mark.slow
def test_a_cluster_of_our_own_answers_nobody_without_its_token(tmp_path: Path) -> None:
    """It listens on all interfaces; its token is in no file, where other users could read it."""
    home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", STRANGERS]
    done = subprocess.run(
        command, env={**variables, **home}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    without, wrong, with_it = (int(line) for line in done.stdout.split())
    assert (without != 0, wrong != 0, with_it) == (True, True, 0)
    assert not (tmp_path / ".ray").exists()


HELD = """
from study.engines.ray_connection import join
with join(None):
    print("joined", flush=True)
    input()
"""


@pytest.mark.slow
@needs_ray
@pytest.mark.skipif("sys.platform != 'linux'", reason="/proc")
@pytest.mark.parametrize("killed", [True, False])
def test_a_cluster_of_our_own_ends_with_the_search(tmp_path: Path, *, killed: bool) -> None:
    """After kill -9, too, none of Ray's processes is left: its agents would stay on."""
    from study.engines import ray_connection  # Ray

    command = [sys.executable, "-c", HELD]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with subprocess.Popen(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as search:  # fmt: skip
        assert search.stdout is not None
        assert search.stdout.readline() == "joined\n"
        theirs = list(ray_connection._descendants(search.pid))
        assert len(theirs) > 4
        time.sleep(1)
        assert not all_dead(theirs), "it must not be ended before the search is"
        if killed:
            search.kill()
        else:
            search.communicate("\n", timeout=60)
    until(lambda: all_dead(theirs), 20)
