"""Words of the command line, and what the command says and returns when a run ends otherwise than it should."""

import signal

import pytest

from ise_plugin.engine import command
from ise_plugin.engine.interruption import Interrupted


def parsed(*words):
    return command.parse_arguments(command.argument_parser(), words)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_options_stand_anywhere_among_the_pairs(place):
    words = ["SOLVER.MAX_EPOCH", "2", "SEED", "-1"]
    words[place:place] = ["--resume", "--config-file", "ISE/folder.yml", "-q"]
    args = parsed(*words)
    assert (args.resume, args.config_file, args.verbosity) == (True, "ISE/folder.yml", "quiet")
    assert args.opts == ["SOLVER.MAX_EPOCH", "2", "SEED", "-1"]


def test_values_may_start_with_a_dash_and_options_that_are_none_are_refused(capsys):
    assert parsed("SOLVER.BASE_LR", "-1e-4", "OUTPUT_DIR", "--resume").opts == [
        "SOLVER.BASE_LR",
        "-1e-4",
        "OUTPUT_DIR",
        "--resume",
    ]
    with pytest.raises(SystemExit):
        parsed("SEED", "1", "--resmue")
    assert "unrecognized arguments: --resmue" in capsys.readouterr().err


def interrupt(args):
    raise Interrupted(signal.SIGTERM)


def fill_the_disk(args):
    raise OSError(28, "No space left on device", "log.txt")


def err(args):
    raise KeyError("nobody knows")


@pytest.mark.parametrize(
    "main, code, words",
    [
        (interrupt, 143, "ended by SIGTERM; go on with --resume"),
        (fill_the_disk, 2, "error: log.txt cannot be written (No space left on device); make room in OUTPUT_DIR"),
        (err, 1, "error: KeyError: 'nobody knows' (unforeseen"),
    ],
)
def test_every_end_has_its_line_and_exit_code(capfd, main, code, words):
    assert command.run(command.argument_parser(), main, []) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(words)


def test_traceback_is_shown_where_asked_for(capfd):
    assert command.run(command.argument_parser(), err, ["--traceback"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("Traceback") and error.splitlines()[-1].startswith("error: KeyError")
