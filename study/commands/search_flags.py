"""The flags of `search` and `plan`: what each sets, in `study.config.schema`'s words."""

from pathlib import Path
from typing import Annotated

import typer

from study.config import schema
from trainers import base, metrics

Grid = Annotated[Path | None, typer.Argument(help="TOML file of schedules, for --strategy grid.")]
Data = Annotated[
    str | None,
    typer.Option(help="Folder or CSV of photos, or its URL; default: handwritten digits."),
]
Trials = Annotated[
    int | None,
    typer.Option(help="Trials in all, earlier ones included; default: 50, or what --budget buys."),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Time of devices in all, earlier runs included, as 20m or 2h."),
]
Study = Annotated[str | None, typer.Option(help="Study name; default: the data's.")]
Config = Annotated[
    Path | None, typer.Option(help="TOML file; default: study.toml, if there is one.")
]
Storage = Annotated[
    str | None, typer.Option(help=f"Database URL; default: {schema.StudyConfig().storage}.")
]
Vault = Annotated[
    str | None,
    typer.Option(help="URL to keep weights under, s3://bucket/prefix; default: by the database."),
]
DataRoot = Annotated[str | None, typer.Option(help="Folder that a CSV's paths start from.")]
Regroup = Annotated[
    bool | None, typer.Option("--regroup", help="Split the photos anew, duplicates together.")
]
AllowLeaks = Annotated[
    bool | None, typer.Option("--allow-leaks", help="Search though splits share photos.")
]
Metric = Annotated[metrics.Metric | None, typer.Option(help="What decides which is best.")]
Backbone = Annotated[str | None, typer.Option(help="Name of a timm model.")]
Weights = Annotated[
    str | None, typer.Option(help="What the backbone starts from: a file, or 'random'.")
]
Trainer = Annotated[str | None, typer.Option(help="A class of your own, package.module:Class.")]
Devices = Annotated[
    str | None, typer.Option(help="auto (all GPUs), 0,1 or cuda:1 or mps or cpu:2.")
]
WorkersPerDevice = Annotated[int | None, typer.Option(help="Trials that share a device.")]
Engine = Annotated[
    schema.EngineKind | None, typer.Option(help="auto: processes if there are several slots.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, auto or host:port; default: known or started here.")
]
Precision = Annotated[
    base.Precision | None, typer.Option(help="Numbers to compute with; auto: by the device.")
]
Compile = Annotated[
    bool | None, typer.Option("--compile", help="Pass networks through torch.compile.")
]
Deterministic = Annotated[
    bool | None, typer.Option("--deterministic", help="Repeat to the last bit, on a GPU too.")
]
CacheLimit = Annotated[
    str | None, typer.Option(help="Disk for decoded photos, as 20GB; default: half the free.")
]
Strategy = Annotated[
    schema.Strategy | None, typer.Option(help="Which schedules are tried, and trained to the end.")
]
Eta = Annotated[int | None, typer.Option(help="Under asha, the best 1/eta go on after a stage.")]
Timeout = Annotated[str | None, typer.Option(help="Leave off after that long, as 8h.")]
UntilFlat = Annotated[
    bool | None,
    typer.Option("--until-flat", help="Leave off where as much time again would show nothing."),
]
Preset = Annotated[schema.Preset | None, typer.Option(help="A schedule to try first.")]
Portfolio = Annotated[
    bool | None,
    typer.Option(
        "--portfolio/--no-portfolio", help="Begin with probes, and schedules that fit the data."
    ),
]
Sampler = Annotated[schema.Sampler | None, typer.Option(help="Who suggests schedules.")]
Repeats = Annotated[
    int | None, typer.Option(help="Fresh seeds at most for each finalist; they race.")
]
Finalists = Annotated[int | None, typer.Option(help="Best schedules to repeat.")]
Seed = Annotated[int | None, typer.Option(help="Common seed of the exploration.")]
MaxFailures = Annotated[
    int | None, typer.Option(help="Failed trials in a row that end the search.")
]
MaxRetries = Annotated[int | None, typer.Option(help="Tries more for a stage whose worker died.")]
Keep = Annotated[int | None, typer.Option(help="Trials whose weights are kept.")]
MaxDisk = Annotated[str | None, typer.Option(help="Disk for all weights of the study, as 20GB.")]
