"""A process that is killed while it seals leaves only whole files under final names."""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.vault import Vault

KEY = "0" * 64
SIZE = 3_000_000
SEAL_FOREVER = """
import itertools, sys
from pathlib import Path
from storage.vault import Vault
vault = Vault(Path(sys.argv[1]))
source = vault.workspace("0" * 64) / "last.safetensors"
for number in itertools.count(int(sys.argv[2])):
    source.write_bytes(number.to_bytes(4, "big") * 750_000)
    vault.seal(source, f"{number}.safetensors")
    print(number, flush=True)
"""


@pytest.mark.long
def test_killed_ten_times_every_final_name_is_whole(tmp_path: Path) -> None:
    """Each file is one that was sealed, from its first byte to its last."""
    vault, number = Vault(tmp_path / "vault"), 0
    rng = random.Random(0)  # noqa: S311 - no secret is made of it
    for _ in range(10):
        number = seal_until_killed(vault.root, number, rng.uniform(0, 0.06))
        for path in vault.root.glob("*.safetensors"):
            content = path.read_bytes()
            assert len(content) == SIZE
            assert content == content[:4] * (SIZE // 4)
            assert int.from_bytes(content[:4], "big") == int(path.stem.partition("_")[0])
    known = {path.name for path in vault.root.glob("*.safetensors")}
    hashes = {name: hashlib.sha256(vault.path(name).read_bytes()).hexdigest() for name in known}
    assert len(known) >= 10
    vault.clear(set())
    assert {path.name for path in vault.root.iterdir()} == known | {"stages"}
    assert all(vault.verify(name, sha256) for name, sha256 in hashes.items())


def seal_until_killed(root: Path, number: int, seconds: float) -> int:
    """Start a child that seals from `number` on, kill it; return the next number."""
    command = [sys.executable, "-c", SEAL_FOREVER, str(root), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it has started, and sealed one
        time.sleep(seconds)
        child.kill()
        sealed = [number, *map(int, child.stdout.read().split())]
    return sealed[-1] + 1
