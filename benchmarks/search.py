"""How fast Encore searches: what sharing saves, and what the search itself costs.

PYTHONPATH=. python benchmarks/search.py PART [options]; each part has a file beside this one.
"""

import argparse
import importlib
import json
from importlib.metadata import version
from pathlib import Path

from contestants import surroundings

PARTS = {
    "sharing": "sharing",
    "wall": "wall",
    "coordinator": "overhead",
    "deciding": "deciding",
    "idle": "idle",
    "reading": "reading",
    "peers": "peers",
}


def main() -> None:
    """Measure one part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, module in PARTS.items():
        part = importlib.import_module(module)
        below = parts.add_parser(name, help=part.__doc__, description=part.__doc__)
        part.add_arguments(below)
        below.add_argument("--out", type=Path, help="a JSON file for everything measured")
    given = parser.parse_args()
    text, measured = importlib.import_module(PARTS[given.part]).run(given)
    print(text)
    if given.out:
        packages = {name: version(name) for name in ("optuna", "sqlalchemy")}
        result = {
            "surroundings": surroundings() | packages,
            # No names of folders.
            "settings": {k: v for k, v in vars(given).items() if not isinstance(v, Path)},
            "measured": measured,
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
