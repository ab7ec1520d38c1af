"""A folder with a simulated table and a fit of it, and a way to run one command."""

import pathlib
from collections.abc import Callable

import pytest

from scaling.cli import main


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with simulated tables of two laws, and a fit of one."""
    pytest.importorskip("pandas", reason="reading tables needs the tables extra")
    folder = tmp_path_factory.mktemp("runs")
    runs, sun = folder / "runs.csv", folder / "sun.csv"
    for law, path in (("chinchilla", runs), ("sun_fp", sun)):
        assert main(["simulate", "--law", law, "--noise", ".003", "-o", str(path)]) == 0
    rows = sun.read_text().splitlines()
    sun.write_text("\n".join([rows[0], *rows[1::5]]) + "\n")
    assert main(["fit", str(sun), "--law", "fp", "-o", str(folder / "fit.json")]) == 0
    return folder


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code and what it printed on stdout and stderr."""
    pytest.importorskip("pandas", reason="reading tables needs the tables extra")

    def once(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(w) for w in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return once
