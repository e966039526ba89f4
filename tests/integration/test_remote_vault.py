"""A vault on object storage: other machines, failing requests, processes that are killed."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import RemoteUnusable
from storage.remote import Remote
from storage.vault import Vault
from study.errors import ConfigError
from study.history.doctor import Level, doctor
from study.studies import open_study
from tests.lab import Lab, schedule, stage
from tests.object_store import ObjectStore

KEY = "0" * 64
SEALING = """
import sys
from pathlib import Path
from storage.remote import Remote
from storage.vault import Vault
vault = Vault(Path(sys.argv[1]), Remote(sys.argv[2]))
source = vault.workspace("0" * 64) / "last.safetensors"
for number in range(10_000):
    source.write_bytes(bytes([number % 256]) * 40_000_000)
    print(number, flush=True)
    vault.seal(source, f"{number}.safetensors")
"""


def sealed(vault: Vault, content: bytes, name: str) -> str:
    """Seal some content; return its hash."""
    source = vault.workspace(KEY) / "last.safetensors"
    source.write_bytes(content)
    return vault.seal(source, name).sha256


def test_another_machine_fetches_what_it_lacks(object_store: ObjectStore, tmp_path: Path) -> None:
    """What is missing or damaged here is fetched; what is wrong there never takes its place."""
    bucket = object_store.bucket()
    here, there = (Vault(tmp_path / name, Remote(f"s3://{bucket}/v")) for name in ("a", "b"))
    sha256 = sealed(here, b"weights", "w.safetensors")
    assert there.verify("w.safetensors", sha256)
    assert there.path("w.safetensors").read_bytes() == b"weights"
    here.path("w.safetensors").write_bytes(b"damaged")
    assert here.verify("w.safetensors", sha256)
    assert here.path("w.safetensors").read_bytes() == b"weights"
    object_store.put(bucket, "v/w.safetensors", b"weightz")
    here.path("w.safetensors").unlink()
    assert not here.verify("w.safetensors", sha256)
    assert [path.name for path in here.root.iterdir()] == ["stages"]


@pytest.mark.slow
def test_no_file_is_lost_or_half_written_though_requests_fail(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    """One in twenty is refused or broken off, before, after or amid; large files go in parts."""
    bucket, rng = object_store.bucket(), random.Random(7)  # noqa: S311 - no secret
    vault, hashes = Vault(tmp_path / "here", Remote(f"s3://{bucket}/v")), {}
    with object_store.failing(0.05, seed=3) as line:
        for number in range(60):
            size = 40_000_000 if number % 30 == 7 else 200_000
            hashes[f"{number}.safetensors"] = sealed(
                vault, rng.randbytes(size), f"{number}.safetensors"
            )
        elsewhere = Vault(tmp_path / "there", vault.remote)
        assert [name for name, sha in hashes.items() if not elsewhere.verify(name, sha)] == []
        for number in range(20):
            vault.delete(f"{number}.safetensors", hashes[f"{number}.safetensors"])
        assert line.spoiled >= 5
    kept = {f"{number}.safetensors" for number in range(20, 60)}
    assert object_store.objects(bucket).keys() == {f"v/{name}" for name in kept}
    assert vault.strays(kept) == {}


@pytest.mark.long
def test_killed_while_sending_readers_see_whole_files(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    """Kill -9 at any moment leaves the old file or the new one under a name, never half of one."""
    bucket = object_store.bucket()
    url, rng = f"s3://{bucket}/v", random.Random(1)  # noqa: S311 - no secret
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SEALING, str(tmp_path / "here"), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        for _ in range(3):
            process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.3))
        process.kill()
    found = object_store.objects(bucket)
    assert found
    for content in found.values():
        assert len(content) == 40_000_000
        assert len(set(content)) == 1
    vault = Vault(tmp_path / "here", Remote(url))
    for path in vault.root.glob("*.safetensors"):
        vault.sweep(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    assert object_store.objects(bucket) == {}
    assert [path.name for path in vault.root.iterdir()] == ["stages"]


@pytest.mark.usefixtures("object_store")
def test_that_the_bucket_is_away_is_no_loss_of_files(tmp_path: Path) -> None:
    """Else a search would forget its weights because an address is wrong."""
    vault = Vault(tmp_path, Remote("s3://encore-is-not-there/v", give_up_after=0))
    for use in (lambda: vault.verify("w.safetensors", "0" * 64), lambda: vault.broken([])):
        with pytest.raises(RemoteUnusable, match="make the bucket"):
            use()


@pytest.fixture
def remote_lab(make_lab: Callable[..., Lab], object_store: ObjectStore) -> Lab:
    """Return a study that was searched while one request in twenty failed."""
    script = (schedule(stage(epochs=2)), schedule(stage(epochs=2), stage(64, epochs=2)))
    lab = make_lab(*script, vault=f"s3://{object_store.bucket()}/team")
    with object_store.failing(0.05, seed=5):
        lab.search()
    return lab


@pytest.mark.long
def test_a_search_leaves_the_same_as_beside_the_database(
    remote_lab: Lab, make_lab: Callable[..., Lab]
) -> None:
    """Rows and contents are equal; the bucket has what the rows say; the copies can go."""
    plain = make_lab(*remote_lab.script)
    plain.search()
    assert remote_lab.outcome() == plain.outcome()
    shutil.rmtree(remote_lab.folder / "lab")
    remote_lab.check_order()
    assert remote_lab.outcome() == plain.outcome()


def test_a_search_goes_on_from_weights_that_are_only_there(remote_lab: Lab) -> None:
    """A later trial starts from a checkpoint that this machine had lost; nothing is retrained."""
    shutil.rmtree(remote_lab.folder / "lab")
    longer = schedule(stage(epochs=2), stage(96, epochs=2))
    remote_lab.configure([*remote_lab.script, longer])
    remote_lab.search()
    remote_lab.check_order()
    with remote_lab.reading() as (store, study, _):
        assert len(store.stage_runs(study.id)) == 3


@pytest.mark.long
def test_doctor_looks_at_the_bucket(remote_lab: Lab, object_store: ObjectStore) -> None:
    """It names the place, what is missing or cut short there, and strays, without fetching."""
    shutil.rmtree(remote_lab.folder / "lab")
    with remote_lab.reading() as (store, study, vault):
        first, second, *_ = sorted(store.known_paths(study.id))
        assert vault.remote
        bucket, _, prefix = vault.remote.url.removeprefix("s3://").partition("/")
    object_store.remove(bucket, f"{prefix}/{first}")
    object_store.put(bucket, f"{prefix}/{second}", b"cut")
    object_store.put(bucket, f"{prefix}/stray.safetensors", b"stray")
    found = {f.what: f for f in doctor(storage=remote_lab.url) if f.what.startswith("study")}
    assert found["study lab: vault"].found.startswith(f"{vault.remote.url}, ")
    assert found["study lab: files"].level is Level.BAD
    assert f"{first}, {second}" in found["study lab: files"].found
    assert "stray.safetensors" in found["study lab: strays"].found
    assert not (remote_lab.folder / "lab").exists()


@pytest.mark.long
def test_studies_of_one_name_may_share_a_bucket(
    make_lab: Callable[..., Lab], object_store: ObjectStore
) -> None:
    """Each sweeps what its own database does not know, and never the other's weights."""
    url = f"s3://{object_store.bucket()}/team"
    labs = [make_lab(schedule(stage()), vault=url) for _ in range(2)]
    for lab in [*labs, *labs]:
        lab.search()
    for lab in labs:
        lab.check_order()


def test_a_study_keeps_its_vault(remote_lab: Lab) -> None:
    """Weights are not scattered: another place, or none, is refused in one sentence."""
    config = remote_lab.config
    with remote_lab.reading() as (store, _, _):
        for vault in (None, "s3://other"):
            changed = config.model_copy(update={"vault": vault})
            with pytest.raises(ConfigError, match=f"give --vault {config.vault}, or give"):
                open_study(store, changed, None)  # type: ignore[arg-type]
