"""`--vault` from the command line: mistakes are one sentence, and readers need no copies."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import cli
from study.searching.search import search
from tests.lab import Lab, schedule, stage
from tests.object_store import ObjectStore
from tests.tiny_training import noise
from trainers.data.manifest import Manifest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command, and gives its exit code and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run(words)
        said = capsys.readouterr()
        return code, said.out, " ".join(said.err.split())

    return run


@pytest.mark.parametrize(
    ("url", "variables", "says"),
    [
        ("s3://encore-is-not-there/v", {}, "make the bucket, or correct its name"),
        pytest.param(
            "s3://{bucket}/v",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "cannot be reached",
            marks=pytest.mark.long,
        ),
        ("s3://{bucket}/v", {"AWS_ENDPOINT_URL": "nonsense"}, "check the network and AWS_ENDPOINT"),
        ("s3://{bucket}/v", {"AWS_PROFILE": "nobody"}, "nobody"),
        ("s3://{bucket}/v", {"AWS_ACCESS_KEY_ID": ""}, "set AWS_ACCESS_KEY_ID"),
        ("file:///proc/encore", {}, "file:///proc/encore"),
    ],
)
@pytest.mark.parametrize("flag", [pytest.param("--vault", marks=pytest.mark.long), "--data"])
def test_a_wrong_address_is_one_sentence_before_any_work(
    object_store: ObjectStore,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str],
    says: str,
    flag: str,
) -> None:
    """Exit code 1, no secret, nothing written: not after the first stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("study.datasets.download.PATIENCE", 0)
    monkeypatch.setattr("study.searching.search.CHECK_WITHIN", 0)
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    if not variables.get("AWS_ACCESS_KEY_ID", "there"):
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    code, out, err = run("search", flag, url.format(bucket=object_store.bucket()))
    assert (code, out) == (1, "")
    if not url.startswith("file") or flag == "--vault":
        assert says in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_wrong_keys_are_one_sentence(object_store: ObjectStore, run: Run) -> None:
    """The server's own word, and which variables to look at; the secret is not among them."""
    with object_store.locked():
        code, _, err = run("search", "--vault", f"s3://{object_store.bucket()}/v")
    assert code == 1
    assert "refuses access" in err
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in err
    assert object_store.variables["AWS_SECRET_ACCESS_KEY"] not in err


def test_a_missing_package_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what to install."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    known = import_module("fsspec.registry")._registry  # what it has imported before
    monkeypatch.delitem(known, "s3", raising=False)
    code, _, err = run("search", "--vault", "s3://bucket/v")
    assert code == 1
    assert "pip install 'encore-search[s3]'" in err


@pytest.mark.long
def test_commands_need_no_copies(
    object_store: ObjectStore,
    make_lab: Callable[..., Lab],
    photos: Manifest,
    run: Run,
    tmp_path: Path,
) -> None:
    """From a machine that has the database alone: best, --copy-to, ls, show, doctor, gc."""
    script = [schedule(stage(lr=lr, epochs=2)) for lr in (1e-3, 2e-3, 1e-4)]
    bucket = object_store.bucket()
    lab = make_lab(*script, manifest=photos, vault=f"s3://{bucket}/team")
    lab.digest = photos.digest
    lab.search()
    copies = lab.folder / "lab"
    here = ("--storage", lab.url)

    def alone(*words: str) -> str:
        shutil.rmtree(copies, ignore_errors=True)
        code, out, err = run(*words, *here)
        assert code == 0, err
        return out

    chosen = json.loads(alone("best", "--json"))
    assert Path(chosen["file"]).is_file()
    alone("best", "--copy-to", str(tmp_path / "chosen"))
    copied = tmp_path / "chosen" / Path(chosen["file"]).name
    assert copied.read_bytes() == object_store.objects(bucket)[_key(object_store, bucket, copied)]
    assert len(json.loads(alone("ls", "--json"))["trials"]) == 3
    assert json.loads(alone("show", "0", "--json"))["folder"].startswith(f"s3://{bucket}/team/lab-")
    assert "vault" in alone("doctor")
    before = len(object_store.objects(bucket))
    cleaned = json.loads(alone("gc", "--keep", "1", "--delete", "--json"))
    assert cleaned["files"]
    assert len(object_store.objects(bucket)) == before - len(cleaned["files"])
    lab.check_order()


def _key(store: ObjectStore, bucket: str, file: Path) -> str:
    return next(name for name in store.objects(bucket) if name.endswith(f"/{file.name}"))


@pytest.mark.slow
def test_the_database_alone_is_enough_to_use_what_was_found(
    object_store: ObjectStore, run: Run, tmp_path: Path
) -> None:
    """Photos and weights in a bucket that fails one request in twenty; a copy of the database.

    On another machine it predicts, explains, exports, reports, and makes the same weights again.
    """
    bucket, photos = object_store.bucket(), tmp_path / "photos"
    noise(photos)
    for path in photos.rglob("*.png"):
        name = path.relative_to(tmp_path).as_posix()
        object_store.put(bucket, name, path.read_bytes())
    one, other = tmp_path / "one", tmp_path / "other"
    with object_store.failing(0.05, seed=11):
        search(
            data=f"s3://{bucket}/photos",
            vault=f"s3://{bucket}/weights",
            storage=f"sqlite:///{one}/encore.db",
            backbone="test_resnet",
            weights="random",
            portfolio=False,
            devices="cpu",
            trials=1,
            space={"n_stages": [2], "image_size": [24], "batch_size": [8], "lrs": [0.01]},
        )
        other.mkdir()
        for file in one.glob("encore.db*"):  # with SQLite's log of what is new
            shutil.copy(file, other)
        shutil.rmtree(one)
        photo = str(next(photos.rglob("*.png")))
        for words in (
            ("predict", photo),
            ("explain", "--to", str(tmp_path / "explained")),
            ("export", "--to", str(tmp_path / "exported")),
            ("report", "--to", str(tmp_path / "report.html")),
            ("reproduce", "0", "--run"),
        ):
            shutil.rmtree(other / "photos", ignore_errors=True)
            code, out, err = run(*words, "--storage", f"sqlite:///{other}/encore.db")
            assert code == 0, err
    assert "bit-identical" in out
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "cannot be read any more" not in page
