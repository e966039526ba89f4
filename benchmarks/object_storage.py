"""A vault on object storage while requests fail: what is lost, and what sealing and fetching cost.

PYTHONPATH=. python benchmarks/object_storage.py --files 100 --megabytes 16 --failing 0.05

An S3 server (moto) runs on loopback in a process of its own, and spoils a share of the requests:
refuses them (500, 503) or breaks off before, after or amid. Each file is sealed in a folder, under
the URL, and under the URL while requests fail, in turn; then all copies are deleted, and each is
fetched and verified. Loopback has no distance: a real bucket adds its latency and its bandwidth.
"""

import argparse
import hashlib
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from storage.remote import Remote
from storage.vault import StoredFile, Vault
from tests.object_store import ObjectStore

KEY = "0" * 64
PLACES = ("a folder", "S3", "S3, failing")


def serve(line: Connection) -> None:
    """Run the server: spoil a share of requests when told so, and tell what it holds."""
    with ObjectStore() as store:
        bucket = store.bucket()
        line.send((store.variables, bucket))
        while (share := line.recv()) is not None:
            spoiled = store.application
            line.send((spoiled.asked, spoiled.spoiled))
            spoiled.share = share
        held = store.objects(bucket)
        line.send({name: hashlib.sha256(content).hexdigest() for name, content in held.items()})


@contextmanager
def server() -> Iterator[tuple[Connection, str]]:
    """Return a line to a server, and its bucket; the environment then names it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    variables, bucket = ours.recv()
    os.environ.update(variables)
    try:
        yield ours, bucket
    finally:
        process.terminate()
        process.join()


def spoil(line: Connection, share: float) -> tuple[int, int]:
    """Have a share of requests fail from now on; return how many were asked and spoiled so far."""
    line.send(share)
    counts: tuple[int, int] = line.recv()
    return counts


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work takes, and what came of it."""
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def measure(files: int, size: int, failing: float, folder: Path) -> None:
    """Seal, lose the copies, fetch; print what it took and what was lost."""
    with server() as (line, bucket):
        remotes = [None, Remote(f"s3://{bucket}/calm"), Remote(f"s3://{bucket}/failing")]
        vaults = [Vault(folder / str(i), remote) for i, remote in enumerate(remotes)]
        shares = (0.0, 0.0, failing)
        sealing: list[list[float]] = [[] for _ in PLACES]
        fetching: list[list[float]] = [[] for _ in PLACES]
        kept: dict[str, StoredFile] = {}
        lost = 0
        for number in range(files):
            name, content = f"{number}.safetensors", os.urandom(size)
            for vault, share, times in zip(vaults, shares, sealing, strict=True):
                source = vault.workspace(KEY) / "best.safetensors"
                source.write_bytes(content)
                spoil(line, share)
                seconds, kept[name] = timed(lambda v=vault, s=source, n=name: v.seal(s, n))
                times.append(seconds)
                spoil(line, 0.0)
        for vault in vaults[1:]:
            shutil.rmtree(vault.root)
        for name, stored in kept.items():
            for vault, share, times in zip(vaults, shares, fetching, strict=True):
                spoil(line, share)
                seconds, whole = timed(lambda v=vault, n=name, h=stored.sha256: v.verify(n, h))
                times.append(seconds)
                lost += not whole
        asked, spoiled = spoil(line, 0.0)
        line.send(None)
        held: dict[str, str] = line.recv()
    good = {f"{place}/{n}": s.sha256 for place in ("calm", "failing") for n, s in kept.items()}
    half = sum(name in good and sha256 != good[name] for name, sha256 in held.items())
    print(f"{files} files of {size / 1e6:.1f} MB; {asked} requests, {spoiled} spoiled")
    print(f"lost {lost + len(good.keys() - held.keys())}, half written {half}, ", end="")
    print(f"strays {len(held.keys() - good.keys())}")
    print("| | seal: median, p99 (s) | fetch and verify: median, p99 (s) |\n|---|---|---|")
    for place, seals, fetches in zip(PLACES, sealing, fetching, strict=True):
        print(f"| {place} | {_told(seals)} | {_told(fetches)} |")


def _told(times: list[float]) -> str:
    worst = statistics.quantiles(times, n=100, method="inclusive")[-1]
    return f"{statistics.median(times):.3f}, {worst:.3f}"


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--failing", type=float, default=0.05)
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        measure(asked.files, int(asked.megabytes * 1e6), asked.failing, Path(folder))


if __name__ == "__main__":
    main()
