"""The house keeps its floors: imports point down only, and `scaling` knows nothing of `qjax`."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

FLOORS = {
    "_typing": 1,
    "formats": 2, "rounding": 2, "tiling": 2, "apart": 2,
    "casting": 3, "qtypes": 3, "calibration": 3,
    "qtensor": 4,
    "quantizer": 5, "diagnostics": 5, "gradients": 5,
    "contraction": 6,
    "recipes": 7,
    "linen": 8, "nnx": 8, "functions": 8, "ptq": 8, "cost": 8, "train": 8,
    "serving": 8, "__init__": 8,
    "allocate": 9,
}  # fmt: skip
# The front door dispatches to the other rooms of its floor, inside its functions.
DOOR = "__init__"


def room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "qjax").parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    """Rooms of qjax (and top-level packages) that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import; write it in full"
            base = node.module or ""
            names = [f"{base}.{a.name}" for a in node.names] if base == "qjax" else [base]
        else:
            continue
        found.update(names)
    return found


FILES = sorted((ROOT / "qjax").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = room(path)
    assert here in FLOORS, f"{here} stands on no floor: give it one in FLOORS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "qjax" or len(parts) < 2 or here == DOOR:
            continue
        there = parts[1]
        if there == here:
            continue
        assert there in FLOORS, (
            f"{path} imports {name}: name the room, not the package's front door"
        )
        assert FLOORS[there] < FLOORS[here], f"{here} must not import {there}: it is not below it"


@pytest.mark.parametrize("path", sorted((ROOT / "scaling").rglob("*.py")), ids=lambda p: p.name)
def test_scaling_knows_nothing_of_qjax(path):
    assert not any(name.split(".")[0] == "qjax" for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_public_interfaces_of_jax_and_flax(path):
    for name in imports(path):
        assert "._src" not in name, f"{path} imports {name}"
        assert not name.startswith("jax._"), f"{path} imports {name}"
