"""Processes of ours import what is ours, and not the program that has started them."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main() -> Iterator[None]:
    """Have processes that are spawned meanwhile leave the program's main module alone.

    Multiprocessing has each of them run it again, for what may be defined there: a script that
    calls `search` without a guard would search once more in every worker.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # of no file, so there is nothing to run
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextmanager
def with_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are spawned meanwhile see these variables from their first import on.

    What a process is told later comes too late for libraries that look once, as CUDA does.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
