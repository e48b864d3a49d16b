"""What the user can put right is one line, and an exit code."""

import argparse
import subprocess
import sys

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


@pytest.mark.parametrize("lines", [1, 100_000])  # at the end, and while it prints
def test_a_reader_that_has_gone_ends_it_without_a_word(lines):
    program = (
        "import argparse, sys; from ise_plugin.utils.command_line import run_command; "
        f"sys.exit(run_command(argparse.ArgumentParser(), lambda args: print('line\\n' * {lines}), []))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_a_broken_pipe_of_its_own_is_no_silence():
    def fail(_args):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_command(argparse.ArgumentParser(), fail, [])
