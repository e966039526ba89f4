"""Whatever happens to a vault, and in whatever order, what is known stays whole."""

import errno
import hashlib
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.remote import Remote
from storage.vault import StoredFile, Vault
from tests.examples import examples

NAMES = st.sampled_from([f"{letter}.safetensors" for letter in "abc"])
KEYS = st.sampled_from([digit * 64 for digit in "12"])
CONTENTS = st.binary(max_size=20)


class VaultLife(RuleBasedStateMachine):
    """Searches come and go in a folder that a user keeps files in, too; `rows` are the database."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.rows: dict[str, StoredFile] = {}
        self.noted: dict[str, str] = {}
        self.pending: set[str] = set()
        self.desks: set[str] = set()
        self.running: set[str] = set()
        self.theirs: dict[str, bytes] = {}
        self.searches = 0

    @property
    def vault(self) -> Vault:
        """A new one each time: the folder is all it knows."""
        return Vault(self.root, owner=f"{self.searches:032x}")

    def teardown(self) -> None:
        """Leave nothing in the temporary folder."""
        shutil.rmtree(self.root)

    def source(self, key: str, content: bytes) -> Path:
        """Have a trainer write its file."""
        self.running.add(key)
        self.desks.add(self.vault.desk)
        path = self.vault.workspace(key) / "best.safetensors"
        path.write_bytes(content)
        return path

    def note(self, file: StoredFile) -> bool:
        """Write a name down, if it was never given."""
        if file.path in self.noted:
            return False
        self.noted[file.path] = file.sha256
        self.pending.add(file.path)
        return True

    @rule(key=KEYS, name=NAMES, content=CONTENTS)
    def seal(self, key: str, name: str, content: bytes) -> None:
        """File first, row second."""
        stored = self.vault.seal(self.source(key, content), name, self.note)
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert stored.path not in self.rows
        self.rows[stored.path] = stored
        self.pending.discard(stored.path)

    @rule(name=NAMES, content=CONTENTS)
    def users_file(self, name: str, content: bytes) -> None:
        """Have a user, or another database, leave weights where there are none."""
        if not (self.root / name).exists() and name not in self.rows:
            (self.root / name).write_bytes(b"theirs" + content)
            self.theirs[name] = b"theirs" + content

    @rule(key=KEYS, name=NAMES, content=CONTENTS, step=st.sampled_from(["fsync", "link"]))
    def disk_is_full(self, key: str, name: str, content: bytes, step: str) -> None:
        """Fail to seal: no file changes."""
        source = self.source(key, content)
        before = sorted(self.root.iterdir())
        failing = [mock.patch(f"os.{step}", side_effect=OSError(errno.ENOSPC, "full"))]
        if step == "link":
            failing.append(
                mock.patch("pathlib.Path.rename", side_effect=OSError(errno.ENOSPC, "full"))
            )
        with ExitStack() as full:
            for each in failing:
                full.enter_context(each)
            with pytest.raises(OSError, match="full"):
                self.vault.seal(source, name, self.note)
        assert sorted(self.root.iterdir()) == before

    @rule(key=KEYS, content=CONTENTS, name=NAMES)
    def crash_before_the_link(self, key: str, content: bytes, name: str) -> None:
        """Kill a process that seals: it cannot tidy up, its temporary file stays."""
        source = self.source(key, content)
        with (
            mock.patch("os.link", side_effect=KeyboardInterrupt),
            mock.patch("pathlib.Path.unlink"),
            pytest.raises(KeyboardInterrupt),
        ):
            self.vault.seal(source, name, self.note)

    @rule(key=KEYS, content=CONTENTS, name=NAMES)
    def crash_before_the_row(self, key: str, content: bytes, name: str) -> None:
        """Leave a file under a name that was noted, but without a row."""
        self.vault.seal(self.source(key, content), name, self.note)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Row first, file second."""
        if gone := self.rows.pop(name, None):
            self.vault.delete(name, gone.sha256)

    @rule(key=KEYS)
    def finish(self, key: str) -> None:
        """End a stage run."""
        self.running.discard(key)

    @rule()
    def begin_again(self) -> None:
        """After another search has begun, the folder holds what is known and what is theirs."""
        self.searches += 1
        for desk in self.desks:
            self.vault.take_over(desk)
        for name in self.pending:
            self.vault.sweep(name, self.noted[name])
        self.vault.clear(self.running)
        self.pending.clear()
        self.desks.clear()
        if (self.root / self.vault.desk).exists():
            self.desks.add(self.vault.desk)
        here = {path.name for path in self.root.iterdir()} - {"stages"}
        assert here == self.rows.keys() | self.theirs.keys()
        left = {path.name for path in self.root.glob("stages/*/*")}
        assert left == {key[:16] for key in self.running}
        assert self.vault.strays({*self.rows, *self.theirs}) == {}

    @invariant()
    def what_others_have_is_untouched(self) -> None:
        """No file that is not ours is ever changed or deleted."""
        for name, content in self.theirs.items():
            assert (self.root / name).read_bytes() == content

    @invariant()
    def known_files_are_whole(self) -> None:
        """Every row's file is there with the content it was sealed with."""
        for name, stored in self.rows.items():
            assert self.vault.verify(name, stored.sha256)
            assert self.vault.path(name).stat().st_size == stored.size


class RemoteVaultLife(VaultLife):
    """The same life with the files kept elsewhere, and copies here that may be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere = Path(tempfile.mkdtemp())

    @property
    def vault(self) -> Vault:
        """A new one each time, as after a restart: both folders are all it knows."""
        return Vault(self.root, Remote(f"file://{self.elsewhere}"), owner=f"{self.searches:032x}")

    def teardown(self) -> None:
        """Leave nothing in the temporary folder."""
        super().teardown()
        shutil.rmtree(self.elsewhere)

    @rule()
    def lose_copies(self) -> None:
        """Go to another machine, which has the database alone."""
        for name in self.rows:
            (self.root / name).unlink(missing_ok=True)

    @rule(name=NAMES, content=CONTENTS)
    def damage(self, name: str, content: bytes) -> None:
        """Let something write into a copy here."""
        if name in self.rows:
            (self.root / name).write_bytes(content)


TestVaultLife = VaultLife.TestCase
"""No sequence of events loses a known file or leaves wrong content under its name."""
TestVaultLife.settings = settings(max_examples=examples(30), stateful_step_count=25, deadline=None)

TestRemoteVaultLife = RemoteVaultLife.TestCase
"""Nor does any with the files elsewhere, whatever happens to the copies here."""
TestRemoteVaultLife.settings = settings(
    max_examples=examples(15), stateful_step_count=25, deadline=None
)
