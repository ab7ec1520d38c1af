"""Every notebook in `colab/` is stored clean and runs from top to bottom, at tiny size."""

import os
import pathlib

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient")

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebooks_are_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.filterwarnings("default")  # the kernel's own event loop is not ours to judge
def test_notebooks_run(notebook, monkeypatch, tmp_path):
    pytest.importorskip("ipykernel", reason="notebooks need a kernel")
    pytest.importorskip("matplotlib", reason="notebooks draw")
    monkeypatch.setenv("SCALING_DRAWS", "10")
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [o for o in printed if o.output_type == "stream" and o.name == "stderr"]
    # A picture that only prints its name is not shown.
    assert not [o for o in printed if "<Figure" in str(o.get("data", {}).get("text/plain", ""))
                and "image/png" not in o["data"]]  # fmt: skip
