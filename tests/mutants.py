"""Seeds mistakes into copies of the numeric files, one at a time, and runs the tests for each.

Run as `python -m tests.mutants` (or `make mutants`). It ends with an error where a mistake
survives, or where a snippet that a mistake replaces is no longer in its file.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tests.mistakes import MUTANTS

ROOT = pathlib.Path(__file__).parent.parent


def survives(file: str, snippet: str, replacement: str, tests: str) -> bool:
    """Whether the tests pass although the mistake is in a copy of the project."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for part in ("qjax", "tests", "pyproject.toml"):
            source = ROOT / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
        path = copy / file
        text = path.read_text()
        if snippet not in text:
            raise SystemExit(f"{file} no longer contains {snippet!r}: update tests/mistakes.py")
        path.write_text(text.replace(snippet, replacement))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": folder}
        run = subprocess.run(
            [*command, *tests.split()], cwd=copy, env=environment, capture_output=True, check=False
        )
        return run.returncode == 0


def main() -> None:
    """Runs all mutants, or those whose description contains the first argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    alive = 0
    for what, file, snippet, replacement, tests in MUTANTS:
        if wanted not in what:
            continue
        lived = survives(file, snippet, replacement, tests)
        alive += lived
        print(f"{'SURVIVED' if lived else 'caught':9s} {what}", flush=True)
    if alive:
        raise SystemExit(f"{alive} mistakes were not caught")


if __name__ == "__main__":
    main()
