"""The command line: made of the settings' fields, in groups, with sentences for what is wrong."""

import io
import re
from typing import Any

import click
import pytest
from rich.table import Table
from rich.text import Text

import cli
from study.commands.parsing import Command, Option, misuse
from study.config.flags import Group, settings_in
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.views.terminal import Terminal, file_text

COMMANDS: dict[str, click.Command] = cli.app.commands


def helped(name: str) -> str:
    """Return what `--help` of a command says."""
    command = COMMANDS[name]
    parent = click.Context(cli.app, info_name="encore", help_option_names=["-h", "--help"])
    with command.make_context(name, [], parent=parent, resilient_parsing=True) as context:
        return command.get_help(context)


@pytest.mark.parametrize("name", ["search", "plan"])
def test_each_setting_with_a_flag_is_an_option(name: str) -> None:
    """Of `search` and `plan` alike: with its name, aliases, group, help and default."""
    options = {p.name: p for p in COMMANDS[name].params if isinstance(p, Option)}
    said = " ".join(helped(name).split())
    for setting in settings_in(StudyConfig):
        option, flag = options[setting.name], setting.flag
        assert (option.group, option.help) == (flag.group, flag.help)
        assert {setting.option, *flag.aliases} <= set(option.opts)
        assert setting.is_switch or flag.default or f"(default: {setting.field.default})" in said
        assert flag.default in said
        assert all(choice in said for choice in setting.choices)


def test_a_flag_sets_the_field_that_it_belongs_to() -> None:
    """At whatever depth, and nothing else."""
    for setting in settings_in(StudyConfig):
        place: Any = settings_of(**{setting.name: "given"})
        for part in setting.path:
            assert list(place) == [part]
            place = place[part]
        assert place == "given"


def test_help_is_in_groups_with_examples() -> None:
    """In the order of the groups; an example of each command can be parsed."""
    said = helped("search")
    heads = re.findall(r"^(\w+):$", said, re.MULTILINE)
    wanted = ["Data", "Budget", "Search", "Training", "Devices", "Storage", "Output"]
    assert heads == ["Arguments", *wanted, "Help", "Examples"]
    assert set(wanted) < {group.value for group in Group}
    assert len(said.partition("Examples:")[2].strip().splitlines()) == 3
    for name, command in COMMANDS.items():
        assert isinstance(command, Command)
        for example in command.examples:
            words = example.rpartition("|")[2].partition(">")[0].split()
            assert words[:2] == ["encore", name]
            command.make_context(name, words[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_eighty_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer, but for examples; and every option says what it is for."""
    monkeypatch.setenv("COLUMNS", "80")
    said = helped(name).partition("Examples:")[0]
    assert max(map(len, said.splitlines())) <= 80
    assert all(p.help for p in COMMANDS[name].params if isinstance(p, Option))


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_nothing_at_all_shows_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout, as it was asked for."""
    assert cli.run(words) == 0
    said = capsys.readouterr()
    assert "Commands:" in said.out
    assert "encore search --data PHOTOS --trials 50" in said.out
    assert said.err == ""


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the distribution that is installed."""
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"encore \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--n-trials", "7"], {"trials": "7"}),
        (["--model", "resnet18"], {"backbone": "resnet18"}),
        (["--device", "cpu"], {"devices": "cpu"}),
        (["data=photos", "trials=7"], {"data": "photos", "trials": "7"}),
        (["--no-portfolio", "--regroup"], {"portfolio": False, "regroup": True}),
        ([], {}),
    ],
)
def test_what_other_tools_call_it_is_taken(words: list[str], settings: dict[str, Any]) -> None:
    """Aliases, and `name=value` of options that there are."""
    given = COMMANDS["search"].make_context("search", words).params
    assert {name: value for name, value in given.items() if value is not None} == settings
    assert load_config(settings_of(**settings))


def test_an_argument_too_many_is_named() -> None:
    """With an example of the command, in a sentence as others are."""
    with pytest.raises(click.UsageError) as raised:
        COMMANDS["best"].make_context("best", ["3"])
    assert misuse(raised.value) == "best takes no argument '3'; for example: encore best"


def test_a_pipe_gets_a_line_a_record_and_whole_paths() -> None:
    """However long; no line ends in blanks. A terminal's table has names of files alone."""
    table = Table(box=None)
    for name in ("number", "text"):
        table.add_column(name, overflow="fold")
    table.add_row("1", "word " * 100 + "end")
    table.add_row("2", "short")
    text = io.StringIO()
    pipe = Terminal(file=text, emoji=False)
    pipe.print(table)
    pipe.print("word " * 100 + "end")
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[1].endswith("end")
    assert file_text(pipe, "a/b.safetensors") == "a/b.safetensors"
    screen = Terminal(file=io.StringIO(), emoji=False, force_terminal=True, width=40)
    assert file_text(screen, "a/b.safetensors") == "b.safetensors"
    assert screen.width == 40


def test_a_line_is_never_broken_before_a_unit() -> None:
    """At whatever width; nor within a command that fits. What is printed has plain blanks."""
    said = "estimated [bold]96.6 %[/] ± 1.2 after 13 min at 160 px; `encore show 3` has the rest"
    for width in range(18, 60):
        text = io.StringIO()
        Terminal(file=text, emoji=False, force_terminal=True, width=width, no_color=True).print(
            said, highlight=False
        )
        plain = Text.from_ansi(text.getvalue()).plain
        assert " ".join(plain.split()) == Text.from_markup(said).plain
        lines = [line.rstrip() for line in plain.splitlines()]
        assert all(len(line) <= width for line in lines)
        for whole in ("96.6 % ± 1.2", "13 min", "160 px", "`encore show 3`"):
            assert any(whole in line for line in lines), (width, lines)


def test_a_table_holds_values_together() -> None:
    """In cells that fold, too."""
    table, text = Table(box=None), io.StringIO()
    table.add_column("what")
    table.add_row("it took 13 min in all")
    screen = Terminal(file=text, emoji=False, force_terminal=True, width=12, no_color=True)
    screen.print(table)
    assert any("13 min" in line for line in Text.from_ansi(text.getvalue()).plain.splitlines())
