"""How Encore does on a GPU: whether it is right, how fast, and a search as users run it.

`--all --out DIR` measures everything in three parts of less than ten minutes each, without a
network; what is in DIR already is not measured again. `--data` measures speed on photos of one's
own. `--device cpu --tiny` tries the script itself out.
"""

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from ceiling import one_stage
from contestants import markdown
from gpu_cases import case
from gpu_parts import run_parts

from trainers.data.manifest import Split, build_manifest
from trainers.device import choose_compute

CASES = [
    ("tf_efficientnet_lite0", 128),
    ("tf_efficientnet_lite0", 224),
    ("resnext50_32x4d", 128),
    ("resnext50_32x4d", 224),
    ("resnext50_32x4d", 300),
]


def main() -> None:
    """Measure every case and print a table with date and device."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="a folder {train,val}/CLASS/*")
    what.add_argument("--all", action="store_true", help="all three parts, into the folder --out")
    parser.add_argument("--part", type=int, choices=(1, 2, 3), help="of --all, this part alone")
    parser.add_argument("--tiny", action="store_true", help="of --all: try it out in a minute")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--cases", nargs="*", help="such as resnext50_32x4d:224; default: all")
    parser.add_argument("--photos", type=int, help="for Encore about so many, spread over all")
    parser.add_argument("--out", type=Path, help="a JSON file; with --all, a folder")
    given = parser.parse_args()
    if given.all:
        if not given.out:
            parser.error("--all needs --out DIR")
        parts = (given.part,) if given.part else (1, 2, 3)
        raise SystemExit(run_parts(parts, given.out, given.device, tiny=given.tiny))
    measure_cases(given)


def measure_cases(given: argparse.Namespace) -> None:
    """Measure speed on photos of one's own."""
    compute = choose_compute(given.device)
    manifest = build_manifest(given.data)
    if given.photos:
        step = max(1, len(manifest.photos) // given.photos)
        manifest = replace(manifest, photos=manifest.photos[::step])
    cases = [(name, int(size)) for name, _, size in (c.partition(":") for c in given.cases or [])]
    rows = []
    for backbone, size in cases or CASES:
        schedule = one_stage(
            size, given.rounds + 1, given.batch, backbone=backbone, weights=given.weights
        )
        rows.append(case(given.data, manifest, schedule, compute, given.workers))
        print(json.dumps(rows[-1]), flush=True)
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {compute.name}, torch {torch.__version__}, ", end="")
    print(f"{len(manifest.of_split(Split.TRAIN))} training photos, batch {given.batch}\n")
    print(markdown(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
