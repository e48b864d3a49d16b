"""tools/report.py as a user types it."""

import importlib.util

import pytest
from helpers import REPOSITORY
from report.conftest import CONFIG, make_run, metrics_lines  # noqa: F401  (a fixture)


@pytest.fixture
def report(monkeypatch, tmp_path, capsys):
    """``report(*arguments)`` -> exit code, standard output, standard error."""
    spec = importlib.util.spec_from_file_location("report_tool", REPOSITORY / "tools" / "report.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return (tool.main([str(argument) for argument in arguments]), *capsys.readouterr())

    return run


def test_one_run_gets_its_report_anew_and_several_are_compared(make_run, report, tmp_path):  # noqa: F811
    folders = [
        make_run(name, lines=metrics_lines(2), results={"final": {"mAP": value}}, config={**CONFIG, "SEED": seed})
        for seed, (name, value) in enumerate((("one", 70.0), ("two", 72.0)))
    ]
    code, out, _ = report(folders[0])
    assert code == 0 and f"Report: {folders[0] / 'report.html'}" in out
    assert "70.0" in (folders[0] / "report.html").read_text()
    code, out, _ = report(*folders, "--output", "both.html")
    assert code == 0 and "71 ± 1.4" in out and "Comparison: both.html" in out
    assert "71 ± 1.4" in (tmp_path / "both.html").read_text()


@pytest.mark.parametrize("arguments, word", [(["nowhere"], "nowhere is not a folder"), (["."], "holds no run")])
def test_what_is_no_run_gets_one_line(report, arguments, word):
    code, out, err = report(*arguments)
    assert code == 2 and out == "" and err.startswith("error: ") and word in err and err.count("\n") == 1
