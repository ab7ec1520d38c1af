"""Quantized classes are pickled by what they were made of, wherever a model holds them."""

import abc
import copy
import multiprocessing
import pickle

import flax.linen as nn
import numpy as np
import pytest

import qjax
from tests import draws
from tests.linen.models import MLP, Block, Parent, X


class Meta(type):
    """A type of classes that is not that of abstract ones."""


class Of(MLP, metaclass=Meta):
    pass


class Abstract(MLP, abc.ABC):
    pass


@qjax.quantize("mxfp4_rne")
class Decorated(MLP):
    pass


class Below(Decorated, abc.ABC):
    pass


class BelowOf(qjax.quantize(Of, "mxfp4_rne")):
    pass


PLAIN = Parent(MLP)
VARIABLES = draws.variables(PLAIN, X)


@pytest.mark.parametrize("base", [MLP, Abstract, Of, Below, BelowOf], ids=lambda c: c.__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_module_with_a_quantized_class_in_a_field_is_pickled(base, protocol):
    model = Parent(qjax.quantize(base, "mxfp4_rne"))
    again = pickle.loads(pickle.dumps(model, protocol))
    (_, got), (_, expected), (_, plain) = (m.apply(VARIABLES, X) for m in (again, model, PLAIN))
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, plain)
    assert again.block.__mro__[1] is base
    assert copy.deepcopy(model) == model


def test_a_class_is_the_same_wherever_one_pickle_holds_it():
    block = qjax.quantize(Block, "mxfp8")
    one, two, made = pickle.loads(pickle.dumps((block, Parent(block), block())))
    assert one is two.block is type(made)
    assert (one.__name__, one.__doc__) == (block.__name__, block.__doc__)


def test_classes_that_stand_under_their_names_are_pickled_by_them():
    for kind in (Decorated, Below, BelowOf):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert type(pickle.loads(pickle.dumps(kind()))) is kind


def test_a_class_without_a_name_is_refused_as_python_refuses_it():
    class Local(nn.Module):
        pass

    with pytest.raises((pickle.PicklingError, AttributeError), match="Local"):
        pickle.dumps(Parent(qjax.quantize(Local, "mxfp8")))
    lifted = nn.remat(qjax.quantize(MLP, "mxfp8"))
    with pytest.raises((pickle.PicklingError, AttributeError), match="MLP"):
        pickle.dumps(lifted)


def kinds_of(model):
    return [kind.__name__ for kind in type(model).__mro__], model.block.__name__


def test_another_process_takes_it():
    model = Parent(qjax.quantize(MLP, "mxfp8"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(kinds_of, (model,)) == kinds_of(model)
