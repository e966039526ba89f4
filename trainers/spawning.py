"""Worker processes import Encore's modules, and not the program that started them."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main() -> Iterator[None]:
    """Keep spawned processes from importing the program's main module, within a context.

    Multiprocessing makes each of them run it again, for definitions in it: a script that calls
    `search` without a guard would start a search in every worker.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # of no file, so there is nothing to run
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextmanager
def with_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give spawned processes these environment variables from the start, within a context.

    Setting them later would be too late for libraries that read them once, such as CUDA.
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
