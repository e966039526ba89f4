"""The command line: find the command, run it, turn errors into a line and an exit code."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from study.commands.best import best, compare
from study.commands.check_data import check_data
from study.commands.console import err
from study.commands.exit_codes import FAILED, INTERRUPTED, NOBODY_READS, exit_code, sentence
from study.commands.explain import explain
from study.commands.export import export
from study.commands.history import dashboard, doctor, gc, ls, show, tree
from study.commands.parsing import Commands
from study.commands.predict import predict
from study.commands.report import report
from study.commands.reproduce import reproduce
from study.commands.search import plan, repeat, search
from study.searching.signals import is_deaf_to, leave_the_terminal
from study.views.terminal import LogLine
from trainers.signals import TERMINATIONS

app = Commands(
    "encore",
    help="Run it again, keep the best: search training-loop schedules for image classification.",
    epilog="`encore COMMAND -h` explains a command; --debug shows the traceback of an error.",
    callback=lambda: None,
)
for command in (
    check_data,
    search,
    plan,
    repeat,
    best,
    compare,
    predict,
    explain,
    export,
    reproduce,
    ls,
    show,
    tree,
    report,
    dashboard,
    doctor,
    gc,
):
    app.add_command(command)
click.version_option(package_name="encore-search", message="encore %(version)s")(app)


def main() -> None:
    """Run the command line and exit; errors become one line on stderr and an exit code."""
    for number in TERMINATIONS:
        if not is_deaf_to(number):
            signal.signal(number, _like_ctrl_c)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    log = logging.StreamHandler()
    log.setFormatter(LogLine(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, handlers=[log])
    # Odd tags in photos are of no interest during a search.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sys.exit(run([argument for argument in arguments if argument != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run one command and return its exit code."""
    try:
        # Not its `main`, which would end Ctrl-C without a word.
        with app.make_context("encore", list(arguments) or ["--help"]) as context:
            app.invoke(context)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `encore ls | head`
        for stream in (sys.stdout, sys.stderr):  # Python flushes both at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return NOBODY_READS
    except (KeyboardInterrupt, click.Abort):
        err.print("stopped")
        return INTERRUPTED
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback without --debug
        if debug:
            err.print_traceback(error)
        known, message = exit_code(error), sentence(error)
        err.print_error(message)
        return FAILED if known is None else known


def _like_ctrl_c(number: int, _frame: FrameType | None) -> NoReturn:
    """Give the study up and clean away what is half done; a cluster may send SIGTERM twice."""
    signal.signal(number, signal.SIG_IGN)
    leave_the_terminal(number)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
