"""What a stage hands on to those that go on from it: its network alone. Free of torch."""

from pathlib import Path

import safetensors
from safetensors.numpy import save_file

NETWORK = "network."
"""What the names of the network's tensors begin with, beside those of how it was trained."""

_HANDED_ON = "handed_on.safetensors"


def network_alone(last: Path) -> Path:
    """Return a file with the network of a stage that has ended, written beside its `LAST`.

    Until a stage's epochs are recorded its `LAST` needs what each of them predicted, which may be
    more than the network; who starts from it needs none of that. A file that is nothing but the
    network, or no file of `Finetuner`'s, is given as it is.
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
