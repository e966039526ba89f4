"""The weights that a stage passes on to the next ones: its network only. Free of torch."""

from pathlib import Path

import safetensors
from safetensors.numpy import save_file

NETWORK = "network."
"""The prefix of the network's tensors, beside those of its training state."""

_HANDED_ON = "handed_on.safetensors"


def network_alone(last: Path) -> Path:
    """Return a file with the network of a stage that has ended, written beside its `LAST`.

    Until a stage's epochs are recorded, its `LAST` holds their predictions, which may be larger
    than the network; the next stage needs none of that. A file that holds only the network, or one
    not of `Finetuner`, is returned unchanged.
    """
    try:
        with safetensors.safe_open(last, framework="np") as file:
            names = list(file.keys())
            own = [name for name in names if name.startswith(NETWORK)]
            if not own or own == names:
                return last
            network = {name: file.get_tensor(name) for name in own}
    except (safetensors.SafetensorError, OSError):
        return last
    alone = last.with_name(_HANDED_ON)
    save_file(network, alone)
    return alone
