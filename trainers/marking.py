"""Write a decision rule into a copy of a weights file. Free of torch."""

import json
from pathlib import Path

import safetensors
from safetensors.numpy import save_file

from trainers.decision import Decision

KEY = "encore"
"""Where in a weights file's metadata its card lies."""


def copy_with_decision(source: Path, target: Path, decision: Decision) -> None:
    """Copy weights whose card is then to tell how their probabilities become an answer."""
    with safetensors.safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        card = json.loads(metadata.get(KEY, "null"))
        if not isinstance(card, dict):
            raise ValueError(f"{source} must be weights that Encore has written")
        marked = metadata | {KEY: json.dumps(card | {"decision": decision.to_dict()})}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, target, marked)
