"""Functions that TVMScript text calls while it is parsed: polynomials, and sums across lanes.

`exp2`, `log2` and `tanh` are polynomials because TVM's own become one libm call per lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_EXP2 = (1.5469732e-4, 1.34004327e-3, 9.61802527e-3, 5.55032715e-2, 0.240226507, 0.693147182, 1.0)
_LOG2 = (0.431733012, 0.576714516, 0.961798847, 2.88539004)


def macros() -> dict[str, Any]:
    """Return the names that generated text refers to; imports tvm."""
    from tvm.script import ir as I  # noqa: E741, N812
    from tvm.script import tirx as T  # noqa: N812

    return {
        "T": T, "I": I, "m_exp2": _exp2, "m_log2": _log2, "m_tanh": _tanh, "m_rsqrt": _rsqrt,
        "m_bf16": _round_bf16, "m_sum": _across(lambda a, b: a + b), "m_sums": _sums,
        "m_max": _across(T.max), "m_min": _across(T.min), "m_prefetch": _prefetch,
        "m_swap": _swap,
    }  # fmt: skip


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    """Bind a value to a variable, so that a macro may use it more than once."""
    from tvm import tirx

    variable = tirx.Var("v", value.ty)
    return tirx.Let(variable, value, body(variable))


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    total: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _exp2(x: Any) -> Any:
    """2^x by a polynomial of degree 6 on [-1/2, 1/2], relative error below 2e-7."""
    from tvm.script import tirx as T  # noqa: N812

    def scaled(v: Any) -> Any:
        whole = T.floor(v + T.float32(0.5))
        return _let(whole, lambda n: _polynomial(v - n, _EXP2) * _power(n))

    def _power(n: Any) -> Any:
        return T.reinterpret("float32", T.shift_left(T.Cast("int32", n) + 127, T.int32(23)))

    return _let(T.max(T.min(x, T.float32(127.4)), T.float32(-126.0)), scaled)


def _log2(x: Any) -> Any:
    """log2 of a positive normal number by the artanh series on [sqrt(1/2), sqrt(2)]."""
    from tvm.script import tirx as T  # noqa: N812

    offset = T.int32(0x3F3504F3)

    def split(bits: Any) -> Any:
        exponent = T.shift_right(bits - offset, T.int32(23))
        return _let(exponent, lambda e: T.Cast("float32", e) + mantissa(bits, e))

    def mantissa(bits: Any, e: Any) -> Any:
        m = T.reinterpret("float32", bits - T.shift_left(e, T.int32(23)))
        return _let(m, lambda v: _let((v - 1.0) / (v + 1.0), series))

    def series(t: Any) -> Any:
        return t * _polynomial(t * t, _LOG2)

    return _let(T.reinterpret("int32", x), split)


def _tanh(x: Any) -> Any:
    from tvm.script import tirx as T  # noqa: N812

    return T.float32(1.0) - T.float32(2.0) / (_exp2(x * T.float32(2.885390082)) + T.float32(1.0))


def _rsqrt(x: Any) -> Any:
    from tvm.script import tirx as T  # noqa: N812

    return T.float32(1.0) / T.sqrt(x)


def _round_bf16(x: Any) -> Any:
    """Round f32 to the nearest bf16, ties to even, and keep it in f32."""
    from tvm.script import tirx as T  # noqa: N812

    def rounded(bits: Any) -> Any:
        odd = T.bitwise_and(T.shift_right(bits, T.int32(16)), T.int32(1))
        return T.reinterpret("float32", T.bitwise_and(bits + 0x7FFF + odd, T.int32(-65536)))

    return _let(T.reinterpret("int32", x), rounded)


def _shuffle(vectors: list[Any], lanes: list[Any]) -> Any:
    """Return a vector of `lanes` of vectors that are counted through."""
    from tvm import tirx

    return tirx.Shuffle(vectors, lanes)


def _across(op: Callable[[Any, Any], Any]) -> Callable[[Any, int], Any]:
    """Return a macro that folds the `lanes` of a vector by halving it."""

    def fold(vector: Any, lanes: int) -> Any:
        if lanes == 1:
            return vector
        half = lanes // 2

        def halves(v: Any) -> Any:
            low = _shuffle([v], list(range(half)))
            return op(low, _shuffle([v], list(range(half, lanes))))

        return _let(vector, lambda v: fold(halves(v), half))

    return fold


def _prefetch(load: Any) -> Any:
    """Ask for the cache line of an element, which may be inside changes of dtype.

    Into the second level: far more lines can be under way to it than to the first.
    """
    from tvm import tirx
    from tvm.script import tirx as T  # noqa: N812

    while isinstance(load, tirx.Cast):
        load = load.value
    hints = T.int32(0), T.int32(2), T.int32(1)  # to read, into the second level, of data
    return tirx.call_llvm_intrin("void", "llvm.prefetch", T.address_of(load), *hints)


def _sums(lanes: int, *vectors: Any) -> Any:
    """Return a vector of the sums of some vectors of `lanes` lanes; both counts are powers of two.

    Neighbours are merged by halves until one vector is left: log2(lanes) shuffles and additions
    for each pair, where summing each vector by itself would take that many for each vector.
    """
    return _merge(list(vectors), lanes, lanes)


def _merge(vectors: list[Any], lanes: int, width: int) -> Any:
    """`vectors` hold segments of `width` lanes, each the partial sums of one result."""
    if width == 1:
        return vectors[0]
    low = [start + lane for start in range(0, lanes, width) for lane in range(width // 2)]
    high = [lane + width // 2 for lane in low]
    if len(vectors) == 1:
        only = vectors[0]
        folded = _shuffle([only], low) + _shuffle([only], high)
        return _let(folded, lambda v: _merge([v], len(low), width // 2))
    merged = [
        _shuffle([a, b], low + [lane + lanes for lane in low])
        + _shuffle([a, b], high + [lane + lanes for lane in high])
        for a, b in zip(vectors[::2], vectors[1::2], strict=True)
    ]
    return _bind(merged, lambda values: _merge(values, lanes, width // 2))


def _swap(low: Any, high: Any, lanes: int, width: int, odd: int) -> Any:
    """Return one of two vectors after they swapped halves of each `2 * width` lanes."""

    def source(lane: int) -> int:
        if odd:
            return lane + width if not lane & width else lanes + lane
        return lane if not lane & width else lanes + lane - width

    return _shuffle([low, high], [source(lane) for lane in range(lanes)])


def _bind(values: list[Any], body: Callable[[list[Any]], Any]) -> Any:
    """Bind several values at once."""
    if not values:
        return body([])
    return _let(values[0], lambda v: _bind(values[1:], lambda rest: body([v, *rest])))
