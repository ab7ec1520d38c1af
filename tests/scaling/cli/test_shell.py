"""The command line from a shell: exit codes, its import, and the commands of the README."""

import subprocess
import sys

import pytest

from tests.scaling.conftest import ROOT


def test_the_module_and_its_exit_code_work_from_a_shell(place):
    words = [sys.executable, "-m", "scaling", "fit", str(place / "nowhere.csv"), "--law", "fp"]
    out = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 1
    assert out.stdout == ""
    assert out.stderr.startswith("scaling: There is no file")
    assert out.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom scaling.cli import build\nbuild().format_help()\n"
        "print([m for m in ('matplotlib', 'pandas', 'scipy.optimize') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr


def test_the_commands_of_the_readme_run_in_order(tmp_path, monkeypatch, run):
    pytest.importorskip("matplotlib", reason="pictures need the plots extra")
    lines = [
        line.partition(" #")[0].strip() for line in (ROOT / "README.md").read_text().splitlines()
    ]
    commands = [line for line in lines if line.startswith("scaling ")]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = command.replace("--bootstrap 200", "--bootstrap 5").split()[1:]
        assert run(*words)[0] == 0, command
