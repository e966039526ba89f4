"""A trial's schedule is trained again by the command line, whatever its labels are."""

import json

import pytest

import cli


def check_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    """Check in the current folder that trial 0 is trained under one more seed, scored by both."""
    assert cli.run(("repeat", "0", "--seeds", "2")) == 0
    capsys.readouterr()
    assert cli.run(("best", "--json")) == 0
    chosen = json.loads(capsys.readouterr().out)
    (scores,) = (each["scores"] for each in chosen["schedules"] if each["trial"] == 0)
    assert len(scores) == 2
    assert chosen["score"] in [x for each in chosen["schedules"] for x in each["scores"].values()]
