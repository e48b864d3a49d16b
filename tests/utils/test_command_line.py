"""What the user can put right is one line, and an exit code."""

import argparse

import pytest

from ise_plugin.errors import UsageError
from ise_plugin.utils.command_line import run_command


def import_nothing(_args):
    import no_such_package  # noqa: F401


def refuse(_args):
    raise UsageError("two\nlines")


def interrupt(_args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "command, code, line",
    [
        (import_nothing, 2, "error: No module named 'no_such_package'"),
        (refuse, 2, "error: two lines"),
        (interrupt, 130, "interrupted"),
        (lambda _args: None, 0, ""),
        (lambda _args: 1, 1, ""),
    ],
)
def test_ends_in_one_line(command, code, line, capsys):
    assert run_command(argparse.ArgumentParser(), command, []) == code
    assert capsys.readouterr().err.strip() == line


def test_the_traceback_is_there_when_asked_for():
    with pytest.raises(UsageError):
        run_command(argparse.ArgumentParser(), refuse, ["--traceback"])
