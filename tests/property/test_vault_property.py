"""Whatever happens to a vault, and in whatever order, what is known stays whole."""

import errno
import hashlib
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from storage.remote import Remote
from storage.vault import StoredFile, Vault

NAMES = st.sampled_from([f"{letter}.safetensors" for letter in "abc"])
KEYS = st.sampled_from([digit * 64 for digit in "12"])
CONTENTS = st.binary(max_size=20)


class VaultLife(RuleBasedStateMachine):
    """A coordinator's life: it seals, crashes, deletes and sweeps; `rows` are its database."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.rows: dict[str, StoredFile] = {}
        self.running: set[str] = set()

    @property
    def vault(self) -> Vault:
        """A new one each time, as after a restart: the folder is all it knows."""
        return Vault(self.root)

    def teardown(self) -> None:
        """Leave nothing in the temporary folder."""
        shutil.rmtree(self.root)

    def source(self, key: str, content: bytes) -> Path:
        """Have a trainer write its file."""
        self.running.add(key)
        path = self.vault.workspace(key) / "best.safetensors"
        path.write_bytes(content)
        return path

    @rule(key=KEYS, name=NAMES, content=CONTENTS)
    def seal(self, key: str, name: str, content: bytes) -> None:
        """File first, row second."""
        self.rows[name] = self.vault.seal(self.source(key, content), name)
        assert self.rows[name].sha256 == hashlib.sha256(content).hexdigest()

    @rule(key=KEYS, name=NAMES, content=CONTENTS, step=st.sampled_from(["fsync", "replace"]))
    def disk_is_full(self, key: str, name: str, content: bytes, step: str) -> None:
        """Fail to seal: no file changes."""
        source = self.source(key, content)
        before = sorted(self.root.iterdir())
        target = "os.fsync" if step == "fsync" else "pathlib.Path.replace"
        full = mock.patch(target, side_effect=OSError(errno.ENOSPC, "full"))
        with full, pytest.raises(OSError, match="full"):
            self.vault.seal(source, name)
        assert sorted(self.root.iterdir()) == before

    @rule(key=KEYS, content=CONTENTS, name=NAMES)
    def crash_before_the_rename(self, key: str, content: bytes, name: str) -> None:
        """Kill a process that seals: it cannot tidy up, its temporary file stays."""
        source = self.source(key, content)
        with (
            mock.patch("pathlib.Path.replace", side_effect=OSError("killed")),
            mock.patch("pathlib.Path.unlink"),
            pytest.raises(OSError, match="killed"),
        ):
            self.vault.seal(source, name)

    @rule(key=KEYS, content=CONTENTS)
    def crash_before_the_row(self, key: str, content: bytes) -> None:
        """Leave a file under a new name of which the database never learns."""
        self.vault.seal(self.source(key, content), "orphan.safetensors")

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """Row first, file second."""
        self.rows.pop(name, None)
        self.vault.delete(name)

    @rule(key=KEYS)
    def finish(self, key: str) -> None:
        """End a stage run."""
        self.running.discard(key)

    @rule()
    def sweep(self) -> None:
        """After a sweep the folder holds what is known and nothing else."""
        orphans = self.vault.orphans(set(self.rows), self.running)
        assert self.vault.sweep(set(self.rows), self.running) == orphans
        assert {path.name for path in self.root.iterdir()} - {"stages"} == set(self.rows)
        stages = self.root / "stages"
        left = {path.name for path in stages.iterdir()} if stages.exists() else set()
        assert left == {key[:16] for key in self.running}
        assert self.vault.orphans(set(self.rows), self.running) == []

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
        return Vault(self.root, Remote(f"file://{self.elsewhere}"))

    def teardown(self) -> None:
        """Leave nothing in the temporary folder."""
        super().teardown()
        shutil.rmtree(self.elsewhere)

    @rule()
    def lose_copies(self) -> None:
        """Go to another machine, which has the database alone."""
        for path in self.root.glob("*.safetensors"):
            path.unlink()

    @rule(name=NAMES, content=CONTENTS)
    def damage(self, name: str, content: bytes) -> None:
        """Let something write into a copy here."""
        (self.root / name).write_bytes(content)


TestVaultLife = VaultLife.TestCase
"""No sequence of events loses a known file or leaves wrong content under its name."""
TestVaultLife.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)

TestRemoteVaultLife = RemoteVaultLife.TestCase
"""Nor does any with the files elsewhere, whatever happens to the copies here."""
TestRemoteVaultLife.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
