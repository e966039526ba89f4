"""How well Encore and its peers do with the same epochs: the last accuracy over seeds."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from contestants import (
    NAMES,
    Contestant,
    RunFailed,
    markdown,
    present,
    rotated,
    say,
    surroundings,
)

Accuracies = dict[str, dict[int, float]]
"""The last accuracy in per cent, by contestant and seed."""


def measure(contestants: Sequence[Contestant], seeds: int, task: dict[str, Any]) -> Accuracies:
    """Run every contestant under every seed, one after the other."""
    accuracies: Accuracies = {contestant.name: {} for contestant in contestants}
    for seed in range(seeds):
        for contestant in rotated(contestants, seed):
            try:
                last = 100 * contestant.run(seed=seed, **task).accuracy[-1]
            except RunFailed as failure:
                say(f"seed {seed}: {failure}")
                continue
            accuracies[contestant.name][seed] = last
            say(f"seed {seed}: {contestant.name}, {last:.2f} %")
    return accuracies


def summarise(accuracies: Accuracies) -> list[list[str]]:
    """Return a line for each contestant, with the first one's lead over it under the same seed."""
    (home, of_home), *_ = accuracies.items()
    lines = []
    for name, of_peer in accuracies.items():
        leads = [of_home[seed] - last for seed, last in of_peer.items() if seed in of_home]
        lead = "-" if name == home else spread(leads)
        lines.append([name, spread(list(of_peer.values())), lead, str(len(of_peer))])
    return lines


def spread(values: Sequence[float]) -> str:
    """Write the mean and its standard error."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{mean(values):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder {train,val}/CLASS/*")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3, help="of the head")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=["encore", "fastai"])
    parser.add_argument("--out", type=Path, help="a JSON file for everything measured")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    given = parse()
    contestants = present(given.contestants)
    shared = {key: getattr(given, key) for key in ("size", "epochs", "batch", "lr")}
    accuracies = measure(contestants, given.seeds, {**shared, "data": given.data})
    lines = summarise(accuracies)
    if given.out:
        result = {
            "surroundings": surroundings(),
            "settings": shared,
            "table": lines,
            "accuracies": accuracies,
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    header = ("contestant", "accuracy, %", f"{contestants[0].name} leads by, points", "seeds")
    print(markdown(header, lines))


if __name__ == "__main__":
    main()
