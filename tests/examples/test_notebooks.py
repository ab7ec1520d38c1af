"""Every notebook is stored without outputs and runs from top to bottom, here at tiny size."""

import os
import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("[0-9]_*.ipynb"))
TINY = {
    "1_formats": "POINTS = 101",
    "2_train": "STEPS, WIDTH, RECIPES = 6, 32, ('mxfp8',)",
    "3_sweep": "STEPS, WIDTH, MANTISSAS, EXPONENTS, SEEDS = 3, 32, (1, 3), (2, 4), (0,)",
    "4_scaling": "DRAWS = 10",
}


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_is_a_tiny_size_for_every_notebook():
    assert {path.stem for path in NOTEBOOKS} == set(TINY)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_is_stored_clean_and_installs_first(path):
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "pip" in code[0].source
    assert [c.metadata.get("tags") for c in code].count(["parameters"]) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_first_cell_installs_what_is_missing_from_the_checkout_or_else_from_pypi(
    path, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr("subprocess.run", lambda command, check: asked.append(command[1:]))
    first = next(cell for cell in read(path).cells if cell.cell_type == "code").source
    monkeypatch.chdir(path.parent)
    exec(first, {})
    assert asked == []  # It is there.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(first, {})
    monkeypatch.chdir(tmp_path)
    exec(first, {})
    assert [command[:3] for command in asked] == [["-m", "pip", "install"]] * 2
    assert [command[-1] for command in asked] == [f"{ROOT}[all]", "qjax[all]"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs_and_draws(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = read(path)
    at = next(i for i, c in enumerate(notebook.cells) if c.metadata.get("tags") == ["parameters"])
    small = nbformat.v4.new_code_cell(f"FOLDER = {str(tmp_path / 'kept')!r}\n{TINY[path.stem]}")
    notebook.cells.insert(at + 1, small)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert any(p.suffix == ".png" for p in (tmp_path / "kept").iterdir())
    assert any(p.suffix in (".jsonl", ".csv", ".png") for p in (tmp_path / "kept").iterdir())
