"""`benchmarks/gpu.py --all`, tried out on a CPU: what it measures, and what not twice."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script's parts as the script does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_parts

    return gpu_parts


def cases(ran: list[str], *names: str) -> Iterator[tuple[str, Callable[[], dict[str, object]]]]:
    """Yield cases that note their name."""

    def run(name: str) -> dict[str, object]:
        ran.append(name)
        if name == "broken":
            raise RuntimeError("it has no such kernel")
        return {"images/s": 1.0}

    for name in names:
        yield name, lambda name=name: run(name)  # type: ignore[misc]


def test_what_is_measured_is_not_measured_again(parts: ModuleType, tmp_path: Path) -> None:
    """Not even after a kill in the middle of a line; what has failed is told, and tried again."""
    ran: list[str] = []
    assert parts.measure(2, cases(ran, "a", "broken", "b"), parts.Results(tmp_path)) == 0
    file = tmp_path / "results.jsonl"
    file.write_text(file.read_text()[:-9])
    again = parts.Results(tmp_path)
    assert parts.measure(2, cases(ran, "a", "broken", "b", "c"), again) == 0
    assert ran == ["a", "broken", "b", "broken", "b", "c"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["a", "broken", "broken", "b", "c"]
    assert rows[1]["failed"] == "RuntimeError: it has no such kernel"
    table = parts.table_of(again, "cpu", tiny=False)
    assert "no GPU measured" in table
    assert table.count("broken") == 1


@pytest.mark.parametrize(
    ("size", "share", "ratio", "says"),
    [
        (300, 0.96, 1.0, "met"),
        (224, 0.94, 9.0, "missed: 0.94 of the ceiling, not 0.95"),
        (128, 0.81, 2.1, "met"),
        (128, 0.7, 1.5, "missed: 0.70 of the ceiling, not 0.8; 1.5 times timm's loop, not 2"),
        (64, 0.6, 1.0, "met"),
        (24, 0.1, 0.1, "none at this size"),
    ],
)
@pytest.mark.usefixtures("parts")
def test_bars_are_checked_by_size(size: int, share: float, ratio: float, says: str) -> None:
    """Each size has a share of the ceiling to reach; at 128 pixels timm's loop is one, too."""
    from gpu_cases import bars

    assert bars(size, share, ratio) == says


def test_a_part_begins_nothing_after_its_time(
    parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is counted, and measured by the next call."""
    ran: list[str] = []
    monkeypatch.setattr(parts, "PART_SECONDS", -1.0)
    assert parts.measure(2, cases(ran, "a", "b"), parts.Results(tmp_path)) == 2
    assert ran == []


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    """Every part has its rows, and none has failed; a second call measures nothing."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--all", "--out", str(tmp_path)]
    command += ["--device", "cpu", "--tiny"]
    for _ in range(2):
        done = subprocess.run(
            command, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["part"] for row in rows] == [1] * 8 + [2] * 3 + [3] * 2
    assert [
        row for row in rows if "failed" in row or row.get("outcome") in ("failure", "error")
    ] == []
    assert "no GPU measured" in (tmp_path / "table.md").read_text()
