"""Commands built on click: options in groups, examples, and usage errors in one sentence."""

import difflib
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from study.config.flags import Group, Setting, settings_in
from study.config.schema import StudyConfig
from study.invocation import hint
from trainers.metrics import Criterion

_CHOSEN = "a search chooses it, stage by stage; to restrict it, give [space] {} in study.toml"
_SLOTS = "give --devices cpu:2, a worker for each slot, or --workers-per-device 2"
FOREIGN = {
    "--epochs": _CHOSEN.format("cycle_len = [1, 3]"),
    "--imgsz": _CHOSEN.format("image_size = [128, 224]"),
    "--img-size": _CHOSEN.format("image_size = [128, 224]"),
    "--lr": _CHOSEN.format("lrs = [0.001, 0.01]"),
    "--lr0": _CHOSEN.format("lrs = [0.001, 0.01]"),
    "--batch": _CHOSEN.format("batch_size = [16, 32]"),
    "--batch-size": _CHOSEN.format("batch_size = [16, 32]"),
    "--optimizer": _CHOSEN.format('optimizer = ["adamw"]'),
    "--n-jobs": _SLOTS,
    "--workers": _SLOTS,
    "--project": "give --storage URL, the database, and --study NAME",
    "--name": "give --study NAME",
}
"""Options of other tools that do not exist here, and what to do instead."""

OTHER_COMMANDS = {
    "train": "`encore search --data PHOTOS` trains, and goes on where it was",
    "fit": "`encore search --data PHOTOS` trains, and goes on where it was",
    "tune": "`encore search --data PHOTOS` tunes while it trains",
    "optimize": "`encore search --data PHOTOS` tunes while it trains",
    "val": "`encore best` says what the best weights score on the validation photos",
    "validate": "`encore best` says what the best weights score on the validation photos",
    "test": "`encore best --final-test` scores the best weights on the test photos",
    "trials": "`encore ls` lists the trials",
    "list": "`encore ls` lists the trials",
}
"""Commands of other tools, and what to use here."""


class Option(click.Option):
    """An option that `--help` lists in a group, with its choices where they can be listed."""

    def __init__(
        self,
        *given: Any,
        group: Group = Group.OUTPUT,
        choices: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*given, **settings)
        self.group = group
        self.choices = getattr(self.type, "choices", choices)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the flag with its value's name, and its help with choices and default."""
        text = str(self.help)
        if self.choices:
            text = f"{text.rstrip('.')}: {', '.join(self.choices)}."
        default = self.show_default or ("" if self.is_flag else self.get_default(ctx))
        if isinstance(default, str | int | Path) and default not in ("", True):
            text += f" (default: {default})"
        value = "" if self.is_flag else f" {self.metavar or str(self.name).upper()}"
        return (
            f"{', '.join(self.opts)}{value}{''.join(f', {o}' for o in self.secondary_opts)}",
            text,
        )


class Argument(click.Argument):
    """An argument with a help text."""

    def __init__(self, *given: Any, about: str, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.about = about


class Command(click.Command):
    """A command whose help has groups and examples."""

    def __init__(self, *given: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        settings.setdefault("context_settings", {}).update(
            help_option_names=["-h", "--help"], max_content_width=120, show_default=True
        )
        super().__init__(*given, **settings)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Accept `name=value`, as some tools do, for `--name=value`."""
        try:
            return super().parse_args(ctx, [self._as_option(word) for word in args])
        except click.BadOptionUsage as error:
            error.ctx = (
                ctx  # click's parser does not pass it on, and the message needs the option's help
            )
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options by group."""
        rows = [(p.make_metavar(ctx), p.about) for p in self.params if isinstance(p, Argument)]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        for group in (*Group, None):
            found = [
                record
                for each in self.get_params(ctx)
                if getattr(each, "group", None) is group and not isinstance(each, Argument)
                if (record := each.get_help_record(ctx)) is not None
            ]
            if found:
                with formatter.section(group or "Help"):
                    formatter.write_dl(found, col_max=28)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{_typed(example)}\n")

    def _as_option(self, word: str) -> str:
        found = re.fullmatch(r"([a-z][a-z0-9_]*)=(.+)", word)
        if found is None:
            return word
        option = f"--{found[1].replace('_', '-')}"
        if any(isinstance(p, Argument) and p.name == found[1] for p in self.params):
            return found[2]
        known = {*FOREIGN, *(name for p in self.params for name in p.opts)}
        return f"{option}={found[2]}" if option in known else word


class Commands(click.Group):
    """All commands; for an unknown one it suggests the likely name."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        settings.setdefault("context_settings", {}).update(help_option_names=["-h", "--help"])
        super().__init__(*given, **settings)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first commands to try."""
        with formatter.section("Examples"):
            for example in (
                "encore search --data PHOTOS --trials 50",
                "encore best",
                "encore predict photo.jpg",
            ):
                formatter.write(f"{'':>{formatter.current_indent}}{_typed(example)}\n")
        super().format_epilog(ctx, formatter)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; UsageError suggests the likely one."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name.startswith("-"):
            return found
        likely = difflib.get_close_matches(cmd_name, self.commands, n=1)
        near = f"did you mean `encore {likely[0]}`?" if likely else "`encore --help` lists them"
        meant = _typed(OTHER_COMMANDS.get(cmd_name, near))
        raise click.UsageError(f"there is no command {cmd_name!r}; {meant}", ctx)


class OneOf(click.Choice[Any]):
    """The values of an enumeration, or the registered criteria."""

    def __init__(self, kind: type[StrEnum] | type[Criterion]) -> None:
        super().__init__([each.value for each in kind])
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the member of that value."""
        return self._kind(super().convert(value, param, ctx))


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, whose docstring is its help."""
    return click.command(name, cls=Command, examples=examples)


def option(*names: str, group: Group = Group.OUTPUT, **settings: Any) -> Decorator:
    """Add an option to a command."""
    return click.option(*names, cls=Option, group=group, **settings)


def argument(name: str, about: str, **settings: Any) -> Decorator:
    """Add an argument to a command."""
    return click.argument(name, cls=Argument, about=about, **settings)


_SETTINGS = {setting.name: setting for setting in settings_in(StudyConfig)}


def setting_option(name: str) -> Decorator:
    """Add the option of a setting, as described at its field in `study.config.schema`.

    A command gets None where it is not given. The settings validate its value.
    """
    setting = _SETTINGS[name]
    names = [setting.name, setting.option, *setting.flag.aliases]
    if setting.is_switch and setting.field.default:
        names[1] += f"/--no-{setting.option[2:]}"
    return option(
        *names,
        group=setting.flag.group,
        is_flag=setting.is_switch,
        default=None,
        type=bool if setting.is_switch else str,
        choices=setting.choices,
        metavar=setting.flag.metavar or None,
        help=setting.flag.help,
        show_default=_default(setting),
    )


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each setting that has a flag."""
    for name in reversed(_SETTINGS):
        function = setting_option(name)(function)
    return function


def _default(setting: Setting) -> str | bool:
    if setting.is_switch:
        return setting.option[2:] if setting.field.default else False
    return setting.flag.default or str(setting.field.default)


def misuse(error: click.ClickException) -> str:
    """Return one sentence: what is wrong in the command line, and what was probably meant."""
    context = getattr(error, "ctx", None)
    name = context.info_name if context else "encore"
    match error:
        case click.NoSuchOption():
            near = error.possibilities
            hint = f"did you mean {near[0]}?" if near else f"`encore {name} --help` lists them"
            return f"there is no option {error.option_name}; {FOREIGN.get(error.option_name, hint)}"
        case click.BadOptionUsage():
            params = context.command.params if context else ()
            mine = [p for p in params if error.option_name in p.opts and isinstance(p, Option)]
            return f"{error.option_name} needs a value{_for(mine[0].help) if mine else ''}"
        case click.MissingParameter(param=Argument() as missing):
            what = missing.metavar or str(missing.name).upper()
            return f"{name} needs {what}{_for(missing.about)}{_example(context)}"
        case click.MissingParameter(param=Option() as missing):
            return f"{name} needs {missing.opts[0]}{_for(missing.help)}{_example(context)}"
        case click.BadParameter(param=click.Parameter() as wrong):
            what = wrong.opts[0] if isinstance(wrong, Option) else str(wrong.metavar or wrong.name)
            return f"{what} {_reason(wrong.type, error.message)}"
    message = error.format_message()
    if found := re.match(r"Got unexpected extra arguments? \((.*)\)", message):
        return f"{name} takes no argument {found[1]!r}{_example(context)}"
    return message


def _reason(kind: object, message: str) -> str:
    """Return what a value must be; click's own message begins with the value that was given."""
    given = message.partition(" is not ")[0]
    if isinstance(kind, click.Choice):
        return f"must be one of {', '.join(kind.choices)}, got {given}"
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        number = "a whole number" if isinstance(kind, click.types.IntParamType) else "a number"
        low, high = getattr(kind, "min", None), getattr(kind, "max", None)
        least = "" if low is None else f" from {low}" + ("" if high is None else f" to {high}")
        return f"must be {number}{least}{' on' if least and high is None else ''}, got {given}"
    return message[0].lower() + message[1:].rstrip(".")


def _for(about: str | None) -> str:
    """Return a parameter's purpose, as the end of a sentence."""
    return _typed(f": {about[0].lower()}{about[1:].rstrip('.')}") if about else ""


def _example(context: click.Context | None) -> str:
    examples = getattr(context.command, "examples", ()) if context else ()
    return f"; for example: {_typed(examples[0])}" if examples else ""


def _typed(text: str) -> str:
    """Return a text whose commands are called as they were here: `encore`, or `python cli.py`."""
    return text.replace("encore ", f"{hint()} ")
