"""Which arguments of a traced program are operands of which quantized contraction.

The program is followed from its arguments through moves of elements, loops over stacked
layers and calls. Reads programs and what was heard while they were traced; evaluates nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from qjax._typing import Shape
from qjax.contraction.record import MAPPED, Contraction, Heard, listen
from qjax.recipes.roles import Role, Roles, scan_inputs
from qjax.recipes.stored import MOVES, slices
from qjax.recipes.walk import CONTRACTIONS, is_rule, live, mark_of, scopes_of

CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")


class Move(NamedTuple):
    """One move of the elements of an array."""

    name: str
    before: Shape
    after: Shape
    dtype: str
    axes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Track:
    """How an argument of a program comes to a place in it.

    Attributes:
      leaf: Which argument.
      stack: Leading axes that loops, maps or indices have taken off, one array for each.
      moves: What moved its elements since, in order.
    """

    leaf: int
    stack: int = 0
    moves: tuple[Move, ...] = ()


@dataclasses.dataclass(frozen=True)
class Use:
    """An argument as an operand of a quantized contraction.

    Attributes:
      track: How it comes there.
      known: The contraction.
      side: 0 where it is `lhs`, 1 where it is `rhs`.
    """

    track: Track
    known: Contraction
    side: int

    @property
    def quantizer(self) -> Any:
        """What quantizes it in the forward leg; None where nothing does."""
        return (self.known.policy.fwd.lhs, self.known.policy.fwd.rhs)[self.side]


@dataclasses.dataclass
class Uses:
    """What becomes of the arguments of a program.

    Attributes:
      contractions: Arguments that are operands of quantized contractions.
      others: What else reads an argument: its number, and the name of the operation.
      computed: Contractions that quantize what is computed from weights, not moved, and which of
        their operands it is.
    """

    contractions: list[Use] = dataclasses.field(default_factory=list)
    others: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    computed: list[tuple[Contraction, int]] = dataclasses.field(default_factory=list)


def find(function: Callable[..., Any], weights: Any, *inputs: Any) -> Uses:
    """Traces `function(weights, *inputs)` and follows every leaf of `weights`, by its number."""
    with listen() as heard:
        program = jax.make_jaxpr(function)(weights, *inputs)
    return follow(program, heard, len(jax.tree.leaves(weights)))


def follow(program: ClosedJaxpr, heard: Heard, held: int) -> Uses:
    """Follows the first `held` arguments of a program, which are weights."""
    walker = _Walker({c.number: c for c in heard.contractions})
    jaxpr = program.jaxpr
    roles = [Role.WEIGHT if n < held else Role.ACTIVATION for n in range(len(jaxpr.invars))]
    walker.walk(jaxpr, [(Track(n),) if n < held else () for n in range(len(roles))], roles, ())
    return walker.uses


Tracks = tuple[Track, ...]


class _Walker:
    def __init__(self, by_number: dict[int, Contraction]):
        self.by_number = by_number
        self.uses = Uses()

    def walk(
        self,
        program: Jaxpr,
        inputs: Sequence[Tracks],
        roles: Sequence[Role],
        outer: tuple[str, ...],
    ) -> list[Tracks]:
        """Follows what enters a program; returns what comes out of it."""
        tracks: dict[Any, Tracks] = dict(zip(program.invars, inputs, strict=True))
        known = Roles(program, roles)
        for eqn in live(program):
            operands = _of(tracks, eqn.invars)
            given = known.of(eqn.invars)
            if any(operands) or Role.WEIGHT in given:
                scopes = scopes_of(eqn, outer)
                tracks.update(zip(eqn.outvars, self._through(eqn, operands, given, scopes)))
            known.enter(eqn)
        return _of(tracks, program.outvars)

    def _through(
        self, eqn: JaxprEqn, operands: list[Tracks], roles: list[Role], scopes: tuple[str, ...]
    ) -> Sequence[Tracks]:
        """Follows what enters an equation; returns what comes out of it."""
        name = eqn.primitive.name
        mark = mark_of(scopes)
        if mark is not None and (is_rule(eqn) or name in CONTRACTIONS):
            if mark[1] in self.by_number:
                self._contract(eqn, operands, roles, self.by_number[mark[1]])
            return ()
        if name in MOVES and all(operands):
            return [tuple(_moved(eqn, track) for tracks in operands for track in tracks)]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if eqn.params.get("name") == MAPPED:
            return operands[-2:]  # The policy of the contraction says what became of them.
        if name in CALLS or name == "custom_jvp_call":
            return self._enter(inner, operands, roles, scopes)
        if name == "cond":
            for branch in eqn.params["branches"]:
                self._enter(branch, operands[1:], roles[1:], scopes)
            return ()
        if name == "scan":
            self._scan(eqn, operands, roles, scopes)
            return ()
        self._read(operands, name)
        return ()

    def _read(self, operands: Sequence[Tracks], name: str) -> None:
        self.uses.others += [(track.leaf, name) for tracks in operands for track in tracks]

    def _enter(
        self, program: Any, operands: list[Tracks], roles: list[Role], scopes: tuple[str, ...]
    ) -> list[Tracks]:
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        return self.walk(jaxpr, operands, roles, scopes)

    def _scan(
        self, eqn: JaxprEqn, operands: list[Tracks], roles: list[Role], scopes: tuple[str, ...]
    ) -> None:
        consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
        carried = slice(consts, consts + carry)
        self._read(operands[carried], "scan")
        stacked = [tuple(map(_unstacked, tracks)) for tracks in operands[consts + carry :]]
        inside = [*operands[:consts], *[()] * carry, *stacked]
        self._enter(eqn.params["jaxpr"], inside, scan_inputs(eqn.params, roles), scopes)

    def _contract(
        self, eqn: JaxprEqn, operands: list[Tracks], roles: list[Role], known: Contraction
    ) -> None:
        for side, tracks in enumerate(operands[:2]):
            shape: Shape = eqn.invars[side].aval.shape  # type: ignore[attr-defined]
            extra = len(shape) - len(known.shapes[side])
            for track in tracks:
                # Under a map there is one array for each index of the leading axes.
                whole = _unstacked(track, extra) if extra > 0 else track
                self.uses.contractions.append(Use(whole, known, side))
            quantizer = (known.policy.fwd.lhs, known.policy.fwd.rhs)[side]
            if not tracks and roles[side] is Role.WEIGHT and quantizer is not None:
                self.uses.computed.append((known, side))


def _of(tracks: dict[Any, Tracks], variables: Sequence[Any]) -> list[Tracks]:
    return [() if isinstance(v, Literal) else tracks.get(v, ()) for v in variables]


def _moved(eqn: JaxprEqn, track: Track) -> Track:
    name, params = eqn.primitive.name, eqn.params
    before: Any = eqn.invars[0].aval
    after: Any = eqn.outvars[0].aval
    axes: Any = params.get("permutation", ())
    if name == "concatenate":
        axes = (params["dimension"],)
    elif name == "reshape" and params.get("dimensions") is not None:
        name = "reorder"
    elif name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]
        name = "reshape" if before.size == after.size and list(axes) == sorted(axes) else name
    elif name == "convert_element_type" and before.dtype == after.dtype:
        return track
    elif name == "slice":
        first = slices(eqn)[0] if before.ndim else slice(0)
        rest = before.shape[1:] == after.shape[1:]
        name = "pick" if rest and first.stop - first.start == 1 else name
    elif name == "squeeze" and params["dimensions"] == (0,) and _picked(track):
        return _unstacked(dataclasses.replace(track, moves=track.moves[:-1]))
    move = Move(name, before.shape, after.shape, after.dtype.name, tuple(axes))
    return dataclasses.replace(track, moves=(*track.moves, move))


def _picked(track: Track) -> bool:
    return bool(track.moves) and track.moves[-1].name == "pick"


def _unstacked(track: Track, axes: int = 1) -> Track:
    if track.moves:
        apart = Move("taken apart after a move", (), (), "")
        return dataclasses.replace(track, moves=(*track.moves, apart))
    return dataclasses.replace(track, stack=track.stack + axes)
