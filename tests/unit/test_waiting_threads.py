"""How OpenMP's threads wait: said before torch is loaded, whichever way one comes in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""
DOORS = {
    "a search": "from study import search; search(trials=1)",
    "the command line": "import cli; cli.run(['search', '--trials', '1'])",
    "a worker": "import study.engines.worker, torch",
    "weights at work": "from trainers.classifier import load",
}


@pytest.mark.parametrize(
    ("door", "given", "seen"),
    [
        *(
            pytest.param(door, {}, "None 0", marks=pytest.mark.long if "search(" in code else ())
            for door, code in DOORS.items()
        ),
        ("a worker", {"GOMP_SPINCOUNT": "7"}, "None 7"),
        ("a worker", {"OMP_WAIT_POLICY": "active"}, "active None"),
    ],
)
def test_threads_are_told_to_sleep_before_torch_is_loaded(
    tmp_path: Path, door: str, given: dict[str, str], seen: str
) -> None:
    """What the user says of it wins."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", WATCH + DOORS[door]],
        cwd=tmp_path, env=clean | {"PYTHONPATH": str(ROOT)} | given,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == seen
