"""Output of `reproduce`: how weights were made, and the result of making them again."""

from rich.console import Console
from rich.markup import escape

from study.formatting import score_phrase
from study.provenance.drift import Drift
from study.provenance.lookup import FileState
from study.provenance.record import Provenance
from study.provenance.reproduce import Reproduction
from study.sanitizing import masked
from trainers.metrics import Metric

_STATES = {
    FileState.WHOLE: "[green]as recorded[/]",
    FileState.CHANGED: "[red]changed since it was recorded[/]",
    FileState.MISSING: "[red]missing[/]",
    FileState.DELETED: "[yellow]deleted[/]",
    FileState.NEVER_KEPT: "[yellow]its file was not kept[/]",
    FileState.UNLISTED: "[yellow]the database does not list this file[/]",
}


def print_provenance(console: Console, made: Provenance) -> None:
    """Print how weights were made, what has changed since, and how to make them again."""
    state = _STATES[made.state]
    if made.deleted_because:
        state += f" ({_literal(made.deleted_because)})"
    _line(console, f"[bold]{_literal(made.file or 'no file')}[/]: {state}")
    for name, digest in (("sha256", made.sha256), ("recorded sha256", made.recorded_sha256)):
        if digest and (name == "sha256" or digest != made.sha256):
            _line(console, f"{name} {digest}")
    _line(console, _place(made))
    _line(console, _literal(f"{made.schedule['backbone']}, {made.schedule_text}"))
    _line(
        console,
        _literal(f"schedule {made.schedule_digest[:12]}, data {made.manifest_digest[:12]}"),
    )
    for name, value in made.made_by.items():
        _line(console, f"[dim]{_literal(name):>13}[/]  {_literal(value)}")
    if made.packages:
        versions = ", ".join(f"{name} {version}" for name, version in made.packages.items())
        _line(console, f"[dim]{'with':>13}[/]  {_literal(versions)}")
    else:
        _line(console, "without a card: its environment is unknown")
    for each in made.drift:
        _line(console, f"[yellow]{'changed':>13}[/]  {_drift(each)}")
    for command in made.how:
        _line(console, f"[cyan]{'again':>13}[/]  {_literal(command)}")


def print_reproduction(console: Console, again: Reproduction) -> None:
    """Print the result of making weights again."""
    made, metric = again.provenance, again.provenance.metric or Metric.ACCURACY
    if again.failure is not None:
        _line(console, f"[red]not reproduced[/]: {_literal(again.failure)}")
        return
    _line(console, _verdict(again))
    scores = (score_phrase(metric, score) for score in (again.recorded_score, again.score))
    losses = ("-" if n is None else f"{n:.6f}" for n in (again.recorded_loss, again.loss))
    _line(
        console,
        f"{again.other_predictions} of {again.photos} predictions differ; {metric} recorded "
        f"{' and again '.join(scores)}, loss {' and '.join(losses)}; {again.seconds:.1f} s",
    )
    if not again.reproduced and not again.may_differ:
        _line(console, "the same device and versions must give the same bits: please report this")
    elif made.state is FileState.CHANGED and again.as_recorded and not again.identical:
        _line(console, "the recorded weights were reproduced: the file has been changed")


def _verdict(again: Reproduction) -> str:
    if again.identical:
        return "[bold green]reproduced[/]: all tensors are bit-identical"
    if again.identical is None:
        if again.as_recorded:
            return "[bold green]reproduced[/]: no file is left to compare; the recorded "
            "predictions were reproduced"
        return "[bold yellow]not the same[/]: no file is left to compare with"
    colour = "yellow" if again.reproduced else "red"
    if again.largest_difference is None:
        return f"[bold {colour}]other weights[/]: tensors that cannot be compared"
    return (
        f"[bold {colour}]other weights[/]: the largest difference is {again.largest_difference:.3g}"
    )


def _place(made: Provenance) -> str:
    where = f"seed {made.seed}, stage {made.stage + 1}, epoch {made.epoch}"
    if made.study is None or made.metric is None:
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in made.metrics.items())
        return f"unknown to this database; its card says: {where}, {_literal(numbers)}"
    score = score_phrase(made.metric, made.score)
    return f"trial {made.trial} of study {_literal(made.study)}, {where}: {made.metric} {score}"


def _drift(drift: Drift) -> str:
    if not drift.then:
        return _literal(drift.now)
    return _literal(f"{drift.what}: {drift.then} -> {drift.now}")


def _literal(text: str) -> str:
    """Return a file's text without markup and terminal control sequences."""
    return escape(masked(text, "\N{REPLACEMENT CHARACTER}"))


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
