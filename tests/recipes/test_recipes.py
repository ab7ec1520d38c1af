"""Rules and names: what a recipe matches, and what the door takes and refuses."""

import pytest

from qjax import Policy, Quantizer, Recipe, Rule, recipes


def test_a_type_that_is_no_recipe_stands_for_six_operands():
    recipe = recipes.get("e3m2fn")
    assert recipe.default == Policy.all(Quantizer("e3m2fn"))
    assert recipes.get(Quantizer("e3m2fn")).default == recipe.default
    assert recipes.get(recipe) is recipe


def test_the_first_matching_rule_decides():
    a, b = Policy.all(Quantizer("mxfp8")), Policy.all(Quantizer("mxfp4"))
    recipe = Recipe([Rule("up", a), Rule("u.*", b, ops=["dot_general"]), Rule(".*", Policy())])
    place = lambda path, op: recipe.match(path, op)[0]  # type: ignore[index]  # noqa: E731
    assert place("up", "dot_general") == 0
    assert place("upper", "dot_general") == 1
    assert place("upper", "einsum") == 2
    assert place("x/up", "dot_general") == 2, "a pattern must match the whole path"
    assert [n for n, _ in recipe.unmatched([1])] == [0, 2]


@pytest.mark.parametrize("bad", [3, None, ["mxfp8"]])
def test_what_is_no_recipe_is_refused(bad):
    with pytest.raises(TypeError, match=r"name of a recipe, a Recipe, a Policy"):
        recipes.get(bad)


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match=r"'mxfp8'.*taken.*names\(\)"):
        recipes.register("mxfp8")
