"""What the first and the second signal of a search do."""

import signal
import threading

import pytest

from study.searching import signals

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(
    ("later", "first", "second", "obeyed"),
    [
        (0.1, INT, INT, True),
        (0.1, TERM, TERM, False),  # sent to all processes, and passed on by a job's script
        (5, TERM, TERM, True),
        (0.1, INT, TERM, True),
        (0.1, TERM, INT, True),
        (0.1, HUP, HUP, False),  # of a closed terminal, both the system and the shell tell
        (0.1, HUP, TERM, False),
        (5, HUP, HUP, True),
    ],
)
def test_the_second_signal_is_obeyed_at_once_unless_it_is_an_echo(
    monkeypatch: pytest.MonkeyPatch, later: float, first: int, second: int, *, obeyed: bool
) -> None:
    """Whatever the two signals are, but for a SIGTERM that says what another one has just said."""
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    before, event = signal.getsignal(TERM), threading.Event()
    monkeypatch.setattr(signals, "_is_terminal", lambda _: False)  # this one is needed on
    with signals.interruption(event):
        assert not event.is_set()
        signal.raise_signal(first)
        assert event.is_set()
        now += later
        if obeyed:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(second)
        else:
            signal.raise_signal(second)
    assert signal.getsignal(TERM) is before


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (INT, "finishing this epoch, then stopping; press Ctrl-C again to stop now"),
        (TERM, "finishing this epoch, then stopping"),
    ],
)
def test_the_first_signal_is_answered_at_once(number: int, text: str) -> None:
    """While the epoch goes on; what comes next is said where there are keys to press."""
    said, heard = [], threading.Event()

    def say(told: str) -> None:
        said.append(told)
        heard.set()

    with signals.interruption(threading.Event(), say):
        signal.raise_signal(number)
        assert heard.wait(30)
    assert said == [text]


def test_a_search_in_another_thread_leaves_signals_alone() -> None:
    """Python lets the main thread alone handle them; a notebook's thread searches all the same."""
    handlers = []

    def search() -> None:
        with signals.interruption(threading.Event()):
            handlers.append(signal.getsignal(TERM))

    before = signal.getsignal(TERM)
    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_who_was_told_to_outlast_its_terminal_does() -> None:
    """`nohup` starts a search that ignores SIGHUP; it goes on ignoring it."""
    before, event = signal.signal(HUP, signal.SIG_IGN), threading.Event()
    try:
        with signals.interruption(event):
            signal.raise_signal(HUP)
            assert not event.is_set()
    finally:
        signal.signal(HUP, before)
