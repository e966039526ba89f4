"""What every vault promises."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from storage.remote import Remote
from storage.vault import StoredFile, Vault
from tests.object_store import ObjectStore

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
NAME = "0.9871 a.safetensors"


@pytest.fixture(params=["folder", "s3", "file"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    """Return an empty vault of each kind, whose root is not there yet."""
    root, remote = tmp_path / "runs" / "weights", None
    if request.param == "s3":
        store: ObjectStore = request.getfixturevalue("object_store")
        remote = Remote(f"s3://{store.bucket()}/some/prefix")
    if request.param == "file":
        remote = Remote(f"file://{tmp_path}/elsewhere")
    return Vault(root, remote)


def put(vault: Vault, content: bytes = b"weights", key: str = KEY) -> Path:
    """Have a trainer leave a file in its workspace."""
    source = vault.workspace(key) / "last.safetensors"
    source.write_bytes(content)
    return source


class TestVaultContract:
    """Run over every kind of vault."""

    def test_sealed_file_has_the_content_hash_and_size_it_says(self, vault: Vault) -> None:
        """Sealing copies the file under its name and tells the truth about it."""
        source = put(vault, b"weights" * 500_000)
        stored = vault.seal(source, NAME)
        assert (stored.path, stored.size) == (NAME, 3_500_000)
        assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
        assert vault.path(stored.path).read_bytes() == source.read_bytes()
        assert vault.verify(stored.path, stored.sha256)

    def test_what_is_no_file_is_not_read(self, vault: Vault) -> None:
        """A FIFO in its place would be waited for for ever: it is missing, or fetched anew."""
        stored = vault.seal(put(vault), NAME)
        vault.path(stored.path).unlink()
        os.mkfifo(vault.path(stored.path))
        assert vault.verify(stored.path, stored.sha256) is (vault.remote is not None)

    def test_sealed_file_is_safe_from_who_still_writes_to_the_source(self, vault: Vault) -> None:
        """A trainer that goes on writing in place does not change what was sealed."""
        source = put(vault)
        stored = vault.seal(source, NAME)
        with source.open("r+b") as file:
            file.write(b"XXXX")
        assert vault.verify(stored.path, stored.sha256)

    def test_nothing_is_ever_overwritten(self, vault: Vault) -> None:
        """A second file of one name gets another, and so does one whose name a user has taken."""
        vault.root.mkdir(parents=True)
        (vault.root / NAME).write_bytes(b"the user's own")
        old = vault.seal(put(vault, b"old"), NAME)
        new = vault.seal(put(vault, b"newer"), NAME)
        assert [old.path, new.path] == ["0.9871 a_2.safetensors", "0.9871 a_3.safetensors"]
        assert vault.verify(old.path, old.sha256)
        assert vault.verify(new.path, new.sha256)
        assert vault.path(NAME).read_bytes() == b"the user's own"

    def test_what_only_the_other_side_has_is_not_overwritten_either(self, vault: Vault) -> None:
        """A machine without copies looks there before it gives a name."""
        old = vault.seal(put(vault, b"old"), NAME)
        if vault.remote is not None:
            vault.path(NAME).unlink()
        assert vault.seal(put(vault, b"new"), NAME).path != NAME
        assert vault.verify(NAME, old.sha256)

    def test_a_name_is_told_before_it_appears_and_may_be_refused(self, vault: Vault) -> None:
        """Who notes it knows the content, too, and sees no file yet."""
        told: list[StoredFile] = []

        def note(file: StoredFile) -> bool:
            assert not vault.path(file.path).exists()
            told.append(file)
            return len(told) > 1

        assert vault.seal(put(vault), NAME, note) == told[1]
        assert [file.path for file in told] == [NAME, "0.9871 a_2.safetensors"]

    def test_verify_notices_damage_and_loss(self, vault: Vault) -> None:
        """A flipped byte and a missing file both fail the check, without an exception."""
        stored = vault.seal(put(vault), NAME)
        vault.path(NAME).write_bytes(b"weightz")
        if vault.remote is not None:
            vault.remote.send(vault.path(NAME), NAME)
        assert not vault.verify(NAME, stored.sha256)
        vault.remove(NAME)
        vault.remove(NAME)
        assert not vault.verify(NAME, stored.sha256)

    def test_broken_lists_what_is_missing_or_cut_short(self, vault: Vault) -> None:
        """Files that are gone or half there are named, whole ones are not."""
        whole, gone, cut = (vault.seal(put(vault), f"{n}.safetensors") for n in "abc")
        vault.delete(gone.path, gone.sha256)
        vault.path(cut.path).write_bytes(b"wei")
        if vault.remote is not None:
            vault.remote.send(vault.path(cut.path), cut.path)
        assert vault.broken([whole, gone, cut]) == [gone.path, cut.path]

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".hidden.safetensors",
            "../out.safetensors",
            "a/b.safetensors",
            "a\\b.safetensors",
            "/abs.safetensors",
            "a\nb.safetensors",
            "a\0b.safetensors",
            "a\x1b[31m.safetensors",
            "a\u202eb.safetensors",
            "a\ud800.safetensors",
            "weights.bin",
            "x" * 250 + ".safetensors",
        ],
    )
    def test_hostile_names_are_refused(self, vault: Vault, name: str) -> None:
        """Names are made of class names, which anybody may choose: odd ones write nothing."""
        source = put(vault)
        with pytest.raises(ValueError, match="name must"):
            vault.seal(source, name)
        assert [path.name for path in vault.root.iterdir()] == ["stages"]

    @pytest.mark.parametrize("relative", ["", ".", "..", "../x", "/etc/passwd", "a/../../x"])
    def test_paths_that_leave_the_vault_are_refused(self, vault: Vault, relative: str) -> None:
        """No path from the database reads or deletes a file outside."""
        outside = vault.root.parent / "x"
        outside.parent.mkdir(exist_ok=True)
        outside.write_bytes(b"another's")
        content = hashlib.sha256(b"another's").hexdigest()
        for use in (vault.path, vault.remove):
            with pytest.raises(ValueError, match="in the vault"):
                use(relative)
        vault.delete(relative, content)
        vault.sweep(relative, content)
        assert not vault.has(relative, content)
        assert not vault.verify(relative, content)
        assert outside.read_bytes() == b"another's"

    def test_a_link_that_leads_out_is_refused(self, vault: Vault, tmp_path: Path) -> None:
        """A symbolic link in the vault is not followed outside."""
        put(vault)
        (vault.root / "link").symlink_to(tmp_path)
        with pytest.raises(ValueError, match="in the vault"):
            vault.path("link/secret")

    @pytest.mark.parametrize("key", ["", "../../x", "0123", KEY + "0", "G" * 64])
    def test_keys_are_hexadecimal(self, vault: Vault, key: str) -> None:
        """A workspace cannot be asked for, or removed, outside its place."""
        for use in (vault.workspace, vault.discard):
            with pytest.raises(ValueError, match="key must be"):
                use(key)

    def test_workspace_stays_until_it_is_discarded(self, vault: Vault) -> None:
        """A workspace is the same on every call, outlives sealing, and goes when told to."""
        source = put(vault)
        vault.seal(source, NAME)
        assert vault.workspace(KEY) == source.parent
        assert source.exists()
        vault.discard(KEY)
        vault.discard(KEY)
        assert not source.parent.exists()

    @pytest.mark.parametrize("step", ["fsync", "write"])
    def test_full_disk_leaves_nothing_behind(
        self, vault: Vault, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ENOSPC is passed on; older files stay, no half file appears."""
        stored = vault.seal(put(vault, b"old"), NAME)
        source = put(vault, b"new")

        def full(*_args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        target = "os.fsync" if step == "fsync" else "storage.vault._copy"
        monkeypatch.setattr(target, full)
        with pytest.raises(OSError, match="No space left"):
            vault.seal(source, NAME)
        monkeypatch.undo()
        assert vault.verify(NAME, stored.sha256)
        assert sorted(path.name for path in vault.root.iterdir()) == [NAME, "stages"]

    def test_strays_are_listed_and_only_what_is_named_goes(self, vault: Vault) -> None:
        """Unknown weights, temporary files and workspaces are named; other files are not."""
        vault.seal(put(vault), NAME)
        vault.seal(put(vault), "unknown.safetensors")
        other = f"stages/{'1' * 32}"
        (vault.root / other).mkdir()
        (vault.root / f".sealing-{'0' * 32}").write_bytes(b"half")
        kept = [vault.root / name for name in ("notes.txt", ".x.safetensors", "stages/mine/a")]
        kept[2].parent.mkdir()
        for path in kept:
            path.write_bytes(b"the user's own")
        (vault.root / "link.safetensors").symlink_to(kept[0])
        strays = {"unknown.safetensors": 7, f".sealing-{'0' * 32}": 4, other: 0}
        assert vault.strays({NAME}) == strays
        assert vault.strays({NAME, other}) == {k: v for k, v in strays.items() if k != other}
        for path in strays:
            vault.remove(path)
        assert vault.strays({NAME}) == {}
        assert all(path.exists() for path in [*kept, vault.path(NAME), vault.workspace(KEY)])

    def test_sweep_takes_the_very_content_alone(self, vault: Vault) -> None:
        """A file that got the name meanwhile belongs to another process, here and there."""
        stored = vault.seal(put(vault), NAME)
        vault.sweep(NAME, "0" * 64)
        assert vault.verify(NAME, stored.sha256)
        if vault.remote is not None:
            vault.path(NAME).unlink()
            vault.sweep(NAME, "0" * 64)
            assert vault.remote.has(NAME)
        vault.sweep(NAME, stored.sha256)
        vault.sweep(NAME, stored.sha256)
        assert not vault.verify(NAME, stored.sha256)

    def test_a_changed_copy_is_not_deleted(self, vault: Vault) -> None:
        """A user may have put weights of his own in the place of ours."""
        stored = vault.seal(put(vault), NAME)
        vault.path(NAME).write_bytes(b"the user's own")
        vault.delete(NAME, stored.sha256)
        assert vault.path(NAME).read_bytes() == b"the user's own"

    def test_who_was_overtaken_finds_its_places_gone(self, vault: Vault) -> None:
        """The next search goes on from its files; it can neither write there nor seal."""
        late = Vault(vault.root, vault.remote, "1" * 32)
        source = put(late, b"epoch 3")
        (source.parent / ".last.safetensors.7.tmp").write_bytes(b"half")

        def overtaken(_: StoredFile) -> bool:
            vault.take_over(late.desk)
            return True

        with pytest.raises(FileNotFoundError):
            late.seal(source, NAME, overtaken)
        assert [path.name for path in vault.workspace(KEY).iterdir()] == [source.name]
        assert (vault.workspace(KEY) / source.name).read_bytes() == b"epoch 3"
        assert not source.parent.exists()
        assert vault.strays(set()) == {}

    def test_workspaces_of_others_are_left_to_them(self, vault: Vault) -> None:
        """Only those of an owner that is named are taken over, and only one's own are cleared."""
        other = Vault(vault.root, vault.remote, "1" * 32)
        sources = [put(other), put(vault), put(vault, key=OTHER)]
        vault.take_over("stages/../..")
        vault.clear({KEY})
        assert [source.exists() for source in sources] == [True, True, False]

    def test_empty_vault_has_no_orphans_and_no_size(self, vault: Vault) -> None:
        """Looking into a vault that was never written to neither fails nor makes its folder."""
        assert vault.size() == 0
        assert vault.strays(set()) == {}
        assert vault.broken([]) == []
        assert not vault.root.exists()
        assert not vault.verify(NAME, "0" * 64)

    def test_size_counts_sealed_files_and_workspaces(self, vault: Vault) -> None:
        """Size is the bytes of everything the study keeps."""
        vault.seal(put(vault, b"12345"), NAME)
        assert vault.size() == 10
