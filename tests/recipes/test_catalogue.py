"""Methods are alike: one file each, registered through one door, listed by generated tables."""

import ast
import importlib
import pathlib

import pytest

from qjax import recipes
from qjax.recipes import __main__ as writer
from qjax.recipes import catalogue, registry

ROOT = pathlib.Path(__file__).parent.parent.parent
FOLDER = ROOT / "qjax" / "recipes"
ENTRIES = catalogue.entries()
HOMES = sorted({entry.home for entry in ENTRIES})


def test_the_readme_holds_the_generated_table():
    text = (ROOT / "README.md").read_text()
    assert writer.readme(text) == text, "run `python -m qjax.recipes`"


def test_the_list_of_pieces_is_the_generated_one():
    text = (ROOT / "qjax" / "recipes" / "methods.md").read_text()
    assert text == writer.methods(), "run `python -m qjax.recipes`"


def test_a_readme_without_the_marks_is_refused():
    with pytest.raises(ValueError, match=r"generated.*Put the two lines"):
        writer.readme("# A readme")


def test_every_recipe_of_the_package_says_its_method():
    for name in recipes.names():
        method = registry.method_of(name)
        assert method is not None, f"{name} has no method: `@register(name, METHOD)`"
        assert method.title
        assert method.paper
        assert method.cost


@pytest.mark.parametrize("home", HOMES)
def test_a_method_is_one_file_that_imports_no_other_method(home):
    path = FOLDER / (home.rpartition(".")[2] + ".py")
    tree = ast.parse(path.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not imported & (set(HOMES) - {home})
    assert ast.get_docstring(tree), f"{path} says nothing of its method"
    assert "qjax.recipes.registry" in imported


def test_the_catalogue_lists_every_method_file():
    listed = ast.parse((FOLDER / "__init__.py").read_text())
    names = {a.name for n in ast.walk(listed) if isinstance(n, ast.ImportFrom) for a in n.names}
    for path in FOLDER.glob("*.py"):
        if "@register(" in path.read_text():
            assert path.stem in names, f"list {path.stem} in qjax/recipes/__init__.py"
            assert f"qjax.recipes.{path.stem}" in HOMES


def test_bits_are_those_of_the_policy():
    assert catalogue.bits(recipes.get("mxfp4")) == ("4.25", "4.25", "4.25")
    assert catalogue.bits(recipes.get("deepseek_fp8")) == ("8.002", "8.25", "8.25")
    assert catalogue.bits(recipes.get("float32")) == ("32", "32", "32")


def test_pieces_live_where_the_list_says():
    for entry in ENTRIES:
        for recipe in entry.recipes.values():
            for name, place in catalogue.pieces(recipe).items():
                assert hasattr(importlib.import_module(place), name)
                assert not place.startswith("qjax.recipes")
