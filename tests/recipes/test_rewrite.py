"""Rewriting reaches every contraction of a traced program, and changes nothing else.

Oracles: the function itself where nothing is chosen; the same function written with
`qjax.dot_general` where something is.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

import qjax
from qjax.contraction import FloatAccumulator, Hadamard
from qjax.recipes.rewrite import Decision, rewrite
from qjax.recipes.roles import Role
from tests.draws import normal

MXFP8 = qjax.Policy.all(qjax.Quantizer("mxfp8"))
NOISY = qjax.Policy.all(qjax.Quantizer("mxfp4", rounding=qjax.rounding.Stochastic(), scale="floor"))
N = 32


def always(policy):
    return lambda op, scopes: Decision(policy, "/".join(scopes))


def plain(x, w):
    return jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())))


def quantized(x, w, policy=MXFP8):
    return qjax.dot_general(x, w, (((1,), (0,)), ((), ())), policy=policy)


def in_jit(dot, x, w):
    return jax.jit(lambda x: jnp.tanh(dot(x, w)))(x)


def in_scan(dot, x, w):
    return jax.lax.scan(lambda c, w: (dot(c, w), c.sum()), x, jnp.stack([w, w.T]))[0]


def in_fori(dot, x, w):
    return jax.lax.fori_loop(0, 2, lambda i, c: dot(c, w), x)


def in_while(dot, x, w):
    return jax.lax.while_loop(
        lambda c: dot(c[1], w).sum() > c[0], lambda c: (c[0] + 1e3, c[1]), (0.0, x)
    )[1]


def in_cond(dot, x, w):
    return jax.lax.cond(x.sum() > 0, lambda x: dot(x, w), lambda x: dot(x, w.T), x)


def in_remat(dot, x, w):
    policy = jax.checkpoint_policies.dots_saveable
    return jax.checkpoint(lambda x: jnp.sin(dot(x, w)), policy=policy, prevent_cse=False)(x)


def in_custom_jvp(dot, x, w):
    @jax.custom_jvp
    def f(x):
        return 2 * x

    f.defjvp(lambda primals, tangents: (f(*primals), 3 * tangents[0]))
    return f(dot(x, w))


def in_shard_map(dot, x, w):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("i")
    return jax.shard_map(lambda x: dot(x, w), mesh=mesh, in_specs=spec, out_specs=spec)(x)


def in_vmap(dot, x, w):
    # Both batched: a product that `vmap` widens is one wider product to the rewriter.
    return jax.vmap(dot)(jnp.stack([x, -x]), jnp.stack([w, 2 * w]))


BODIES = [in_jit, in_scan, in_fori, in_cond, in_remat, in_custom_jvp, in_shard_map, in_vmap]


@pytest.fixture(scope="module")
def operands():
    x, w = (normal(i, (N, N)) for i in range(2))
    return x, w / 8


def value_and_grad(f, x, w):
    return jax.jit(jax.value_and_grad(lambda x, w: jnp.cos(f(x, w)).sum(), argnums=(0, 1)))(x, w)


@pytest.mark.parametrize("body", BODIES)
def test_a_rewritten_body_equals_the_one_written_with_quantized_contractions(body, operands):
    rewritten = rewrite(functools.partial(body, plain), always(MXFP8))
    expected = functools.partial(body, quantized)
    chex.assert_trees_all_equal(
        value_and_grad(rewritten, *operands), value_and_grad(expected, *operands)
    )


@pytest.mark.parametrize("body", [*BODIES, in_while])
def test_a_body_in_which_nothing_is_chosen_stays_as_it_is(body, operands):
    rewritten = rewrite(functools.partial(body, plain), lambda op, scopes: None)
    chex.assert_trees_all_equal(rewritten(*operands), body(plain, *operands))


def test_the_condition_of_a_while_loop_is_rewritten(operands):
    rewritten = rewrite(functools.partial(in_while, plain), always(MXFP8))
    chex.assert_trees_all_equal(rewritten(*operands), in_while(quantized, *operands))


def test_the_rule_of_a_custom_vjp_is_kept_and_both_of_its_halves_are_rewritten(operands):
    def make(forward, dlhs, drhs):
        @jax.custom_vjp
        def f(x, w):
            return forward(x, w)

        def backward(saved, g):
            x, w = saved
            return 5 * dlhs(g, w.T), drhs(x.T, g)  # 5: a rule of the user's own

        f.defvjp(lambda x, w: (f(x, w), (x, w)), backward)
        return f

    fwd = functools.partial(quantized, policy=qjax.Policy(fwd=qjax.Gemm("mxfp8", "mxfp8")))
    rewritten = rewrite(make(plain, plain, plain), always(MXFP8))
    chex.assert_trees_all_equal(
        value_and_grad(rewritten, *operands), value_and_grad(make(fwd, fwd, fwd), *operands)
    )


def test_a_backward_rule_is_given_the_whole_leg_in_the_order_of_its_operands(operands):
    legs = {
        "dlhs": qjax.Gemm("int4_channel", "int8_channel", transform=Hadamard(8, seed=1)),
        "drhs": qjax.Gemm("e4m3fn", "e5m2", accumulator=FloatAccumulator("bfloat16")),
    }

    def make(forward, dlhs, drhs):
        @jax.custom_vjp
        def f(x, w):
            return forward(x, w)

        f.defvjp(
            lambda x, w: (f(x, w), (x, w)),
            # The gradient of the weight is written the other way round here.
            lambda saved, g: (dlhs(g, saved[1].T), drhs(g.T, saved[0]).T),
        )
        return f

    def leg(gemm):
        return functools.partial(quantized, policy=qjax.Policy(fwd=gemm))

    expected = make(plain, leg(legs["dlhs"]), leg(legs["drhs"].flipped()))
    rewritten = rewrite(make(plain, plain, plain), always(qjax.Policy(**legs)))
    roles = [Role.ACTIVATION, Role.WEIGHT]
    chex.assert_trees_all_equal(
        value_and_grad(functools.partial(rewritten, roles=roles), *operands),
        value_and_grad(expected, *operands),
    )


def test_a_derivative_taken_inside_is_refused_in_words(operands):
    inside = jax.grad(lambda x, w: plain(x, w).sum())
    with pytest.raises(ValueError, match=r"Quantize the function that is differentiated"):
        rewrite(inside, always(MXFP8))(*operands)


def test_a_construct_that_is_not_known_is_refused_by_name(operands):
    def solve(x, w):
        return jax.lax.custom_linear_solve(
            lambda y: plain(w, y), x, lambda matvec, b: b, symmetric=True
        )

    with pytest.raises(ValueError, match=r"inside 'custom_linear_solve'.*it can inside checkpoint"):
        rewrite(solve, always(MXFP8))(*operands)


def test_integers_and_what_is_quantized_already_stay_as_they_are(operands):
    ints = jnp.arange(N * N).reshape(N, N)
    chex.assert_trees_all_equal(rewrite(plain, always(MXFP8))(ints, ints), plain(ints, ints))
    twice = rewrite(rewrite(plain, always(MXFP8)), always(NOISY))  # NOISY would need a key
    chex.assert_trees_all_equal(twice(*operands), quantized(*operands))


def test_a_weight_on_the_left_takes_the_policy_of_the_right_side(operands):
    x, w = operands
    policy = qjax.Policy(
        fwd=qjax.Gemm("mxfp8", "int4_channel"),
        dlhs=qjax.Gemm("mxfp8_e5m2", "mxfp4"),
        drhs=qjax.Gemm("mxint8", "mxfp6_e3m2"),
    )
    rewritten = rewrite(lambda x, w: plain(w.T, x.T).T, always(policy))
    left = functools.partial(rewritten, roles=[Role.ACTIVATION, Role.WEIGHT])
    right = functools.partial(quantized, policy=policy)
    for got, want in zip(
        jax.tree.leaves(value_and_grad(left, x, w)), jax.tree.leaves(value_and_grad(right, x, w))
    ):
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-5)


def test_roles_follow_the_data_through_loops_and_calls(operands):
    """`w` stays a weight through a jit, a scan that scales it, and a cast; the sum does not."""
    x, w = operands
    policy = qjax.Policy(fwd=qjax.Gemm("mxfp8", "mxfp4"))

    def f(x, w):
        w = jax.jit(lambda w: w * 2)(w)
        w = jax.lax.scan(lambda c, _: (c / 2, None), w, length=1)[0]
        return plain(w.astype(jnp.bfloat16).astype(jnp.float32), x) + plain(x + w, x)

    got = rewrite(f, always(policy))(x, w, roles=[Role.ACTIVATION, Role.WEIGHT])
    rounded = w.astype(jnp.bfloat16).astype(jnp.float32)
    flipped = qjax.Policy(fwd=qjax.Gemm("mxfp4", "mxfp8"))
    chex.assert_trees_all_equal(got, quantized(rounded, x, flipped) + quantized(x + w, x, policy))


def test_noise_differs_by_place_and_iteration_and_not_by_call(operands):
    x, w = operands

    def f(x, w):
        with jax.named_scope("a"):
            first = plain(x, w)
            second = plain(x, w)
        with jax.named_scope("b"):
            third = plain(x, w)
        loop = jax.lax.map(lambda _: plain(x, w), jnp.arange(2))
        return first, second, third, *loop

    rewritten = jax.jit(rewrite(f, always(NOISY)))
    key = jax.random.key(0)
    out = rewritten(x, w, key=key)
    for i, one in enumerate(out):
        for other in out[:i]:
            assert not jnp.array_equal(one, other)
    chex.assert_trees_all_equal(out, rewritten(x, w, key=key))
    assert not jnp.array_equal(out[0], rewritten(x, w, key=jax.random.key(1))[0])


@pytest.mark.parametrize("check_vma", [True, False])
def test_devices_draw_noise_of_their_own_for_what_is_their_own(operands, check_vma):
    """Equal parts are rounded differently along "split", and what is the same stays so."""
    x, w = operands
    mesh = jax.make_mesh((2, 2), ("split", "same"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.P("split")
    f = jax.shard_map(
        plain, mesh=mesh, in_specs=(spec, jax.P()), out_specs=spec, check_vma=check_vma
    )
    out = jax.jit(rewrite(f, always(NOISY)))(jnp.concatenate([x, x]), w, key=jax.random.key(0))
    assert not jnp.array_equal(*jnp.split(out, 2))
    held = {}
    for shard in out.addressable_shards:
        held.setdefault(shard.index[0].start or 0, []).append(shard.data)
    for one, other in held.values():
        chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(other))


def test_another_layer_changes_no_noise_but_its_own(operands):
    x, w = operands

    def layers(names):
        def f(x, w):
            out = {}
            for name in names:
                with jax.named_scope(name):
                    out[name] = plain(x, w)
            return out

        return rewrite(f, always(NOISY))(x, w, key=jax.random.key(0))

    two, three = layers(["a", "b"]), layers(["a", "new", "b"])
    chex.assert_trees_all_equal(two, {name: three[name] for name in two})


def test_calling_again_traces_and_compiles_no_inner_function_again(operands):
    asked = []

    def choose(op, scopes):
        asked.append(scopes)
        return Decision(MXFP8)

    inner = jax.jit(plain)
    rewritten = rewrite(lambda x, w: inner(x, w), choose)
    first = rewritten(*operands)
    once = len(asked)
    chex.assert_trees_all_equal(rewritten(*operands), first)
    # The second call looks for contractions, but traces none of them again.
    assert len(asked) - once < once
