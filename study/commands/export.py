"""The command that hands a network over: export."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, Study, Weights, out, print_json
from trainers.formats import Format


def export(
    to: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: Weights = None,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="May be repeated; default: onnx.")
    ] = None,
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    verify_on: Annotated[
        Path | None,
        typer.Option(help="Folder of photos to compare on; default: the study's for validation."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the best weights as a folder that works without Encore, with a model card."""
    from study.deployment.export import export as write

    kinds = list(dict.fromkeys(formats or [Format.ONNX]))
    done = write(weights, to, formats=kinds, study=study, storage=storage, verify_on=verify_on)
    if as_json:
        print_json(asdict(done))
        return
    lines = [f"{done.weights} is now in {done.folder}:"]
    lines += [
        f"  {file.name}, {file.n_bytes / 1e6:.1f} MB, logits differ by at most "
        f"{file.largest_difference:.2g}"
        for file in done.files
    ]
    lines += ["  model.json, MODEL_CARD.md", f"compared on {done.verified_on}"]
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
