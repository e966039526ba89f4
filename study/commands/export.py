"""The command that exports a network: export."""

from dataclasses import asdict
from pathlib import Path

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.parsing import OneOf, command, option
from study.config.flags import Group
from trainers.formats import Format


@command(
    "export",
    "encore export --to exported",
    "encore export --to exported --format torchscript",
    "encore export --to exported --weights chosen/acc98.61_....safetensors",
)
@option("--to", type=Path, metavar="DIR", required=True, help="Folder to write.")
@option(
    "--format",
    "formats",
    multiple=True,
    type=OneOf(Format),
    show_default="onnx",
    help="May be repeated.",
)
@console.weights
@option(
    "--verify-on",
    group=Group.DATA,
    type=Path,
    metavar="DIR",
    show_default="the study's for validation",
    help="Folder of photos for comparing the exported network with the original.",
)
@option(
    "--unknown",
    group=Group.CHOICE,
    metavar="SHARE",
    show_default="as the weights carry it",
    help="Also output each photo's distance from the training photos; at most (after a search in "
    "folds, about) this share of photos like those of validation is unknown, e.g. 5%.",
)
@console.study
@console.storage
@console.as_json
def export(
    to: Path,
    weights: Path | None,
    formats: tuple[Format, ...],
    study: str | None,
    storage: str,
    verify_on: Path | None,
    unknown: str | None,
    as_json: bool,
) -> None:
    """Export the best weights for use without Encore, with a model card."""
    kinds = list(dict.fromkeys(formats or [Format.ONNX]))
    with err.waiting("writing and checking the exported files"):
        from study.deployment.export import export as write
        from study.deployment.reference import share_of

        done = write(
            weights,
            to,
            formats=kinds,
            study=study,
            storage=storage,
            verify_on=verify_on,
            unknown=share_of("--unknown", unknown),
        )
    if as_json:
        print_json(asdict(done))
        return
    lines = [f"{done.weights} is now in {done.folder}:"]
    lines += [
        f"  {file.name}, {file.n_bytes / 1e6:.1f} MB, logits differ from torch's by at most "
        f"{file.largest_difference:.2g}"
        for file in done.files
    ]
    lines += ["  model.json, MODEL_CARD.md", f"compared on {done.verified_on}"]
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
