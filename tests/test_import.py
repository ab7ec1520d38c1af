"""`import qjax` and `import scaling` stay light: the doors import what they need when called."""

import subprocess
import sys

import pytest

HEAVY = {
    "qjax": ["flax", "optax", "orbax", "matplotlib", "pandas", "grain", "scipy.optimize", "rich"],
    "scaling": ["qjax", "flax", "matplotlib", "scipy.optimize"],
}


@pytest.mark.parametrize("package", ["qjax", "scaling"])
def test_import_is_light(package):
    code = f"import sys, {package}; print([m for m in {HEAVY[package]} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
