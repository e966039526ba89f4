"""What of a machine a process may use: what it is pinned to, and its cgroups' limits."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from trainers import allowance
from trainers.allowance import own_groups, usable_cpus, usable_memory

MEGA = 1 << 20

MakeGroups = Callable[[dict[str, dict[str, str]]], list[Path]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="pins processes as Linux does")


@pytest.fixture
def groups(tmp_path: Path) -> MakeGroups:
    """Write cgroups, by path below the root, with their files; return the folders, inner first.

    The process is in the last of them.
    """

    def make(contents: dict[str, dict[str, str]]) -> list[Path]:
        for path, files in contents.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
        process = tmp_path / "process"
        process.write_text(f"0::/{[*contents, ''][len(contents) - 1]}\n")
        return own_groups(tmp_path / "cgroup", process)

    return make


@pytest.fixture
def _thousand_mega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a machine with 1000 MiB of free memory."""
    free = SimpleNamespace(available=1000 * MEGA)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)


@pytest.fixture
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin the process to eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("_eight_cpus")
@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        (["max 100000"], 8),
        (["200000 100000"], 2),
        (["150000 100000"], 2),
        (["10000 100000"], 1),
        (["0 100000"], 1),
        (["1600000 100000"], 8),
        (["max 100000", "300000 100000"], 3),
        (["300000 100000", "max 100000"], 3),
        (["500000 100000", "400000 100000", "600000 100000"], 4),
        (["", "abc", "100000", "5 0", "-1 100000", "1.5 100000"], 8),
        ([], 8),
    ],
    ids=str,
)
def test_a_quota_of_any_group_above_bounds_the_cpus(
    groups: MakeGroups, quotas: Sequence[str], cpus: int
) -> None:
    """Rounded up and at least one; what cannot be read bounds nothing."""
    paths = ["/".join("abcdef"[: depth + 1]) for depth in range(len(quotas))]
    made = groups({path: {"cpu.max": f"{q}\n"} for path, q in zip(paths, quotas, strict=True)})
    assert usable_cpus(made) == cpus


@pytest.mark.parametrize(
    ("limits", "free"),
    [
        ([("max", "5")], 1000),
        ([(f"{300 * MEGA}", f"{100 * MEGA}")], 200),
        ([(f"{5000 * MEGA}", f"{100 * MEGA}")], 1000),
        ([("max", "5"), (f"{300 * MEGA}", f"{50 * MEGA}")], 250),
        ([(f"{300 * MEGA}", f"{50 * MEGA}"), ("max", "5")], 250),
        ([(f"{100 * MEGA}", f"{120 * MEGA}")], 0),
        ([("", ""), ("7", ""), ("x", "y")], 1000),
        ([], 1000),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_thousand_mega")
def test_a_limit_of_any_group_above_bounds_the_memory(
    groups: MakeGroups, limits: Sequence[tuple[str, str]], free: int
) -> None:
    """What is left of the tightest one, never below nothing, nor more than the machine has free."""
    paths = ["/".join("abcdef"[: depth + 1]) for depth in range(len(limits))]
    files = [{"memory.max": most, "memory.current": used} for most, used in limits]
    made = groups(dict(zip(paths, files, strict=True)))
    assert usable_memory(made) == free * MEGA


@pytest.mark.usefixtures("_thousand_mega")
def test_files_kept_in_memory_count_as_free(groups: MakeGroups) -> None:
    """A group whose limit is filled by files that were read has all that room still."""
    stat = f"anon 5\ninactive_file {80 * MEGA}\nactive_file 7\n"
    files = {"memory.max": f"{100 * MEGA}", "memory.current": f"{100 * MEGA}", "memory.stat": stat}
    assert usable_memory(groups({"a": files})) == 80 * MEGA


@pytest.mark.usefixtures("_thousand_mega")
def test_another_system_is_asked_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are neither cgroups nor `sysconf`, what is free counts all the same."""
    monkeypatch.delattr(os, "sysconf")
    assert usable_memory([]) == 1000 * MEGA


def test_another_system_pins_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes cannot be pinned, all CPUs count, and one where they cannot be counted."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for found, cpus in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda found=found: found)
        assert usable_cpus([]) == cpus


@pytest.mark.parametrize(
    ("process", "folders"),
    [
        ("0::/\n", ["."]),
        ("1:cpu:/x\n0::/a/b\n", ["a/b", "a", "."]),
        ("0::/../../other\n", ["."]),
        ("1:cpu:/x\n", []),
        ("", []),
    ],
)
def test_groups_are_found_up_to_the_root(tmp_path: Path, process: str, folders: list[str]) -> None:
    """Innermost first, and none outside of the root, wherever a container's process says it is."""
    (tmp_path / "process").write_text(process)
    root = tmp_path / "cgroup"
    assert own_groups(root, tmp_path / "process") == [root / folder for folder in folders]
    assert own_groups(root, tmp_path / "missing") == []


@pytest.mark.long
@linux
def test_a_process_that_is_pinned_to_one_cpu_uses_one() -> None:
    """Its slot has one thread, and so has torch, as it is under `taskset -c 0`."""
    program = (
        "import os, torch; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from study.engines.slots import slots_of; from trainers.device import choose_compute; "
        "torch.set_num_threads(2); choose_compute('cpu'); "
        "print(slots_of('cpu')[0].threads, torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_nothing_else_counts_cpus_or_memory() -> None:
    """One module asks the system; all others ask it."""
    root = Path(allowance.__file__).parents[1]
    asking = [
        path.relative_to(root).as_posix()
        for folder in ("trainers", "storage", "study", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if any(
            word in path.read_text(encoding="utf-8")
            for word in ("cpu_count", "sched_getaffinity", "SC_PHYS_PAGES", "psutil")
        )
    ]
    assert asking == ["trainers/allowance.py"]
