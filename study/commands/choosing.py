"""The commands that choose: best."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, Study, out, print_json


def best(
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    copy_to: Annotated[Path | None, typer.Option(help="Copy the weights into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Print the best weights of all runs, and what is known of them."""
    from study.selector import best as choose
    from study.selector import copy_weights
    from study.views.pages import print_best

    chosen = choose(study, storage=storage)
    copied = copy_weights(chosen, copy_to) if copy_to else None
    if as_json:
        print_json({**asdict(chosen), **({"copied_to": str(copied)} if copied else {})})
        return
    print_best(out, chosen)
    if copied:
        out.print(f"copied to {copied}", markup=False, soft_wrap=True)
