"""Other weights in the folder of a study are neither overwritten nor deleted."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from storage.folders import MARKER, owner_of, settle
from storage.paths import open_vault
from storage.records import Kind
from tests.crashes import crash_in, crashes
from tests.lab import Bench, Lab, schedule, stage

MakeLab = Callable[..., Lab]

SCRIPT = tuple(schedule(stage(size, epochs=2), stage(128)) for size in (64, 80, 96))
LONGER = (*SCRIPT, schedule(stage(32)))


def weights(folder: Path) -> dict[Path, str]:
    """Hash all weights below a folder but those in training."""
    files = (path for path in folder.rglob("*.safetensors") if "stages" not in path.parts)
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def as_before_identities(lab: Lab) -> None:
    """Have a study be one of an earlier Encore, whose folder says nothing."""
    with closing(sqlite3.connect(lab.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE encore_studies SET identity = NULL, folder = NULL")
        connection.execute("DELETE FROM encore_names")
        connection.commit()
    for marker in lab.folder.rglob(MARKER):
        marker.unlink()


@pytest.fixture
def pair(make_lab: MakeLab) -> tuple[Lab, Lab]:
    """Return two databases in one folder, which have a study of one name each."""
    first = make_lab(*SCRIPT)
    second = Lab(first.folder, SCRIPT, url=f"sqlite:///{first.folder / 'other.db'}", seed=5)
    return first, second


def test_two_databases_in_one_folder_keep_their_weights(pair: tuple[Lab, Lab]) -> None:
    """The second is given a folder of its own, says which, and keeps it."""
    first, second = pair
    first.configure(SCRIPT[:2])
    first.search()
    before = weights(first.folder)
    second.search()
    assert {path: weights(first.folder)[path] for path in before} == before
    (said,) = second.said
    assert said.startswith(f"{first.folder / 'lab'} holds the weights of another study; those of")
    assert said.endswith(f"in {first.folder / 'lab-2'}")
    first.configure(SCRIPT)
    for lab in (first, second):
        lab.search()
        lab.check_order()
    assert first.said == []
    assert len(second.said) == 1
    with first.reading() as (_, one, here), second.reading() as (_, other, there):
        assert (here.root.name, there.root.name) == ("lab", "lab-2")
        assert (owner_of(here.root), owner_of(there.root)) == (one.mark, other.mark)


@pytest.mark.long
def test_two_that_begin_together_share_no_folder(pair: tuple[Lab, Lab]) -> None:
    """While the first one trains, the second begins: it takes neither its files nor its place."""
    first, second = pair
    first.search(stop=lambda: len(first.told) >= 2)
    second.search()
    told = first.search()
    assert len(first.trainer.trained) == len(SCRIPT) * 2 + 1  # one of them was gone on with
    assert told
    first.check_order()
    second.check_order()


def test_a_lost_database_loses_no_weights(make_lab: MakeLab, template: Path) -> None:
    """Deleting it and starting again keeps what was searched before."""
    lab = make_lab(*SCRIPT)
    lab.search()
    before = weights(lab.folder)
    for file in lab.folder.glob("encore.db*"):
        file.unlink()
    shutil.copy(template, lab.folder / "encore.db")
    lab.search()
    lab.check_order()
    assert {path: weights(lab.folder)[path] for path in before} == before
    assert len(weights(lab.folder)) == 2 * len(before)


def test_a_restored_database_goes_on_and_overwrites_nothing(make_lab: MakeLab) -> None:
    """Weights that were made after the backup stay; their names are not given again."""
    lab = make_lab(*SCRIPT)
    lab.configure(SCRIPT[:1])
    lab.search()
    shutil.copy(lab.folder / "encore.db", lab.folder / "backup.db")
    lab.configure(SCRIPT)
    lab.search()
    before, expected = weights(lab.folder), lab.outcome()
    for file in lab.folder.glob("encore.db*"):
        file.unlink()
    shutil.copy(lab.folder / "backup.db", lab.folder / "encore.db")
    lab.search()
    assert lab.said == []
    lab.check_order(over=False)
    assert lab.outcome() == expected
    assert {path: weights(lab.folder)[path] for path in before} == before


@pytest.mark.long
def test_a_study_that_moves_stays_itself(make_lab: MakeLab, tmp_path: Path) -> None:
    """With its folder it goes on in it; the database alone will do on another machine, too."""
    lab = make_lab(*SCRIPT)
    lab.configure(SCRIPT[:2])
    lab.search()
    shutil.copytree(lab.folder, tmp_path / "moved")
    (tmp_path / "alone").mkdir()
    shutil.copy(lab.folder / "encore.db", tmp_path / "alone")
    for place in ("moved", "alone"):
        there = Lab(tmp_path / place, SCRIPT)
        there.search()
        assert there.said == []
        with there.reading() as (store, study, vault):
            assert vault.root == tmp_path / place / "lab"
            assert owner_of(vault.root) == study.mark
            assert len(store.trials(study.id)) == 3


def test_a_study_of_an_earlier_encore_goes_on_where_it_was(make_lab: MakeLab) -> None:
    """Its folder says nothing yet; what is in it is its own, a workspace included."""
    lab = make_lab(*SCRIPT)
    calm = make_lab(*SCRIPT)
    calm.search()
    lab.search(stop=lambda: len(lab.told) >= 5)
    (desk,) = (lab.folder / "lab" / "stages").iterdir()
    for workspace in desk.iterdir():
        workspace.rename(desk.parent / workspace.name)
    desk.rmdir()
    as_before_identities(lab)
    lab.search()
    lab.check_order()
    assert lab.outcome() == calm.outcome()
    assert lab.said == []
    assert not (lab.folder / "lab-2").exists()


@pytest.mark.long
def test_two_of_an_earlier_encore_that_share_a_folder_go_on_there(pair: tuple[Lab, Lab]) -> None:
    """Neither finds its weights gone, nor takes the other's away."""
    first, second = pair
    for lab in pair:
        lab.configure(SCRIPT[:2])
        lab.search()
    theirs = {path.name for path in weights(first.folder / "lab-2")}
    assert theirs.isdisjoint(path.name for path in weights(first.folder / "lab"))
    for name in theirs:
        (first.folder / "lab-2" / name).rename(first.folder / "lab" / name)
    shutil.rmtree(first.folder / "lab-2")
    for lab in pair:
        as_before_identities(lab)
    before = weights(first.folder)
    for lab in (first, second, first):
        lab.said.clear()
        lab.configure(SCRIPT)
        lab.search()
        lab.check_order(over=False)
        assert lab.said == []
    assert {path: weights(first.folder)[path] for path in before} == before


def test_a_users_own_files_stay(make_lab: MakeLab) -> None:
    """Under a name of their own, and under one that the search would have given itself."""
    calm = make_lab(*SCRIPT)
    calm.search()
    lab = make_lab(*SCRIPT)
    lab.search(stop=lambda: True)
    own = [lab.folder / "lab" / "my_favourite.safetensors"]
    own += [lab.folder / "lab" / path.name for path in weights(calm.folder)]
    for path in own:
        path.write_bytes(b"the user's own")
    lab.search()
    lab.check_order(over=False)
    lab.search()
    assert {path.read_bytes() for path in own} == {b"the user's own"}
    assert lab.outcome() == calm.outcome()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Lab:
    """Search undisturbed."""
    lab = Lab(tmp_path_factory.mktemp("calm"), LONGER, template=template, keep=1)
    lab.search()
    return lab


@pytest.mark.long
@pytest.mark.parametrize(
    ("owner", "method"),
    [
        ("vault", "seal"),
        ("store", "note_name"),
        ("store", "seal_stage_run"),
        ("vault", "delete"),
    ],
)
def test_what_a_crash_leaves_is_swept_and_nothing_else(
    make_lab: MakeLab, calm: Lab, owner: str, method: str
) -> None:
    """Of all files without a row, only those go that the search itself had begun to seal."""
    for after in (False, True):
        lab = make_lab(*LONGER, keep=1)
        lab.search(stop=lambda lab=lab: len(lab.told) >= 3)
        own = lab.folder / "lab" / "my_favourite.safetensors"
        own.write_bytes(b"the user's own")

        def prepare(bench: Bench, after: bool = after) -> None:
            crash_in(bench, owner, method, 2, after=after)

        assert crashes(lab, prepare)
        lab.search()
        assert own.read_bytes() == b"the user's own"
        own.unlink()
        lab.check_order()
        assert lab.outcome() == calm.outcome()


def test_of_two_that_want_a_folder_at_once_one_gets_it(pair: tuple[Lab, Lab]) -> None:
    """Both have looked and found it free, and then the other one was faster."""
    first, second = pair
    with first.bench() as mine:
        mine.vault.remove(MARKER)
        with second.bench() as other:
            assert other.vault.root.name == "lab"
            study = replace(mine.study, folder=None)
            assert settle(mine.store, first.url, study, print).folder == "lab-2"


def test_gc_deletes_what_was_chosen_and_no_file_that_took_its_place(make_lab: MakeLab) -> None:
    """A file that is no longer what its row says is not ours."""
    lab = make_lab(*SCRIPT)
    lab.search()
    with lab.reading() as (store, study, _):
        vault = open_vault(lab.url, study)
        file = next(c for c in store.checkpoints(study.id) if c.kind is Kind.BEST)
        vault.path(file.path).write_bytes(b"the user's own")
        vault.delete(file.path, file.sha256)
        assert vault.path(file.path).read_bytes() == b"the user's own"
