"""Elementwise formulae over rows of float32 numbers, as vector code of their own.

A loop that writes several arrays is vectorised by the compiler only behind a check, row after row, that none of them
overlaps another; on rows of 64 numbers that was up to a third of the time. Here a formula is a Python function of
vectors, traced once into LANES numbers a turn: everything is loaded before anything is stored, so an output may be an
input. What it rounds is what is written: nothing is reordered or contracted, on any vector width (lanes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from dm2core.fused.lanes import LANES

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
_TAYLOR = (1.0, 1.0, *(1 / k for k in (2, 6, 24, 120, 720, 5040)))  # 1/k!: 2e-8 relative on |r| <= ln(2) / 2


class Numbers:
    """float32 numbers, `width` of them at once, in the code that is being traced."""

    def __init__(self, builder: Any, value: Any, width: int) -> None:
        self.builder, self.value, self.width = builder, value, width

    def _with(self, value: Any) -> Numbers:
        return Numbers(self.builder, value, self.width)

    def constant(self, number: float) -> Numbers:
        """The same number everywhere."""
        rounded = float(np.float32(number))
        return self._with(
            ir.Constant(kind(_F32, self.width), rounded if self.width == 1 else [rounded] * self.width)
        )

    @property
    def zero(self) -> Numbers:
        return self.constant(0.0)

    def _other(self, other: Numbers | float) -> Any:
        return other.value if isinstance(other, Numbers) else self.constant(other).value

    def __add__(self, other: Numbers | float) -> Numbers:
        return self._with(self.builder.fadd(self.value, self._other(other)))

    def __sub__(self, other: Numbers | float) -> Numbers:
        return self._with(self.builder.fsub(self.value, self._other(other)))

    def __rsub__(self, other: float) -> Numbers:
        return self._with(self.builder.fsub(self._other(other), self.value))

    def __mul__(self, other: Numbers | float) -> Numbers:
        return self._with(self.builder.fmul(self.value, self._other(other)))

    __radd__, __rmul__ = __add__, __mul__

    def __rtruediv__(self, other: float) -> Numbers:
        return self._with(self.builder.fdiv(self._other(other), self.value))

    def __neg__(self) -> Numbers:
        return self._with(self.builder.fneg(self.value))

    def at_least(self, other: float) -> Numbers:
        """The larger; NaN stays NaN."""
        bound = self._other(other)
        return self._with(
            self.builder.select(self.builder.fcmp_ordered(">", bound, self.value), bound, self.value)
        )

    def at_most(self, other: float) -> Numbers:
        """The smaller; NaN stays NaN."""
        bound = self._other(other)
        return self._with(
            self.builder.select(self.builder.fcmp_ordered("<", bound, self.value), bound, self.value)
        )

    def where_positive(self, sign: Numbers) -> Numbers:
        """These numbers where `sign` is above zero, else 0."""
        zero = self.constant(0.0).value
        return self._with(
            self.builder.select(self.builder.fcmp_ordered(">", sign.value, zero), self.value, zero)
        )

    def times_plus(self, factor: Numbers | float, term: Numbers | float) -> Numbers:
        """self factor + term, rounded once."""
        return self._call("fma", self._other(factor), self._other(term))

    def floor(self) -> Numbers:
        return self._call("floor")

    def power_of_two(self) -> Numbers:
        """2^n of whole numbers n in -126..127."""
        whole = kind(_I32, self.width)
        exponent = self.builder.add(self.builder.fptosi(self.value, whole), _integers(127, self.width))
        bits = self.builder.shl(exponent, _integers(23, self.width))
        return self._with(self.builder.bitcast(bits, kind(_F32, self.width)))

    def _call(self, name: str, *others: Any) -> Numbers:
        type_, suffix = kind(_F32, self.width), f"v{self.width}f32" if self.width > 1 else "f32"
        function = ir.FunctionType(type_, [type_] * (1 + len(others)))
        code = get_or_insert_function(self.builder.module, function, f"llvm.{name}.{suffix}")
        return self._with(self.builder.call(code, [self.value, *others]))


def kind(element: Any, width: int) -> Any:
    """LLVM's type of `width` elements."""
    return element if width == 1 else ir.VectorType(element, width)


def _integers(number: int, width: int) -> Any:
    return ir.Constant(kind(_I32, width), number if width == 1 else [number] * width)


def on_number(formula: Callable[[Numbers], Numbers]) -> Any:
    """A formula of one number as a function that kernels call with a float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return formula(Numbers(builder, args[0], 1)).value

    @intrinsic
    def number(_, x):  # type: ignore[no-untyped-def]
        return types.float32(types.float32), code

    return number


def on_rows(formula: Callable[..., tuple[Numbers, ...]]) -> Any:
    """A formula as a function (m, inputs, numbers, outputs) that kernels call: rows 0..m-1 of arrays [., n].

    inputs, outputs: tuples of float32 arrays whose rows are contiguous, n a multiple of LANES, n that of outputs[0];
    one-dimensional arrays are one row, repeated. numbers: a tuple of float32. The formula gets inputs, then numbers.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        m = args[0]
        inputs, outputs = (_rows(context, builder, signature.args[i], args[i]) for i in (1, 3))
        numbers = [
            _everywhere(builder, context.cast(builder, value, type_, types.float32))
            for value, type_ in zip(cgutils.unpack_tuple(builder, args[2]), signature.args[2], strict=True)
        ]
        columns = outputs[0][2]
        with cgutils.for_range(builder, m) as row:
            starts = [
                [builder.gep(data, [builder.mul(row.index, stride)]) for data, stride, _ in arrays]
                for arrays in (inputs, outputs)
            ]
            with cgutils.for_range_slice(builder, _I64(0), columns, _I64(LANES), inc=True) as (j, _):
                seen = [Numbers(builder, _load(builder, start, j), LANES) for start in starts[0]]
                found = formula(*seen, *numbers)
                for start, out in zip(starts[1], found, strict=True):
                    at = builder.bitcast(builder.gep(start, [j]), kind(_F32, LANES).as_pointer())
                    builder.store(out.value, at).align = 4
        return context.get_dummy_value()

    @intrinsic
    def rows(_, m, inputs, numbers, outputs):  # type: ignore[no-untyped-def]
        return types.void(types.intp, inputs, numbers, outputs), code

    return rows


def _rows(context: Any, builder: Any, tuple_type: Any, value: Any) -> list[tuple[Any, Any, Any]]:
    """(address, elements from row to row, columns) of each array of a tuple."""
    out = []
    for array_type, item in zip(tuple_type, cgutils.unpack_tuple(builder, value), strict=True):
        array = context.make_array(array_type)(context, builder, item)
        shape, strides = (cgutils.unpack_tuple(builder, part) for part in (array.shape, array.strides))
        flat = array_type.ndim == 1
        stride = _I64(0) if flat else builder.sdiv(strides[0], _I64(4))
        out.append((array.data, stride, shape[-1]))
    return out


def _load(builder: Any, start: Any, j: Any) -> Any:
    out = builder.load(builder.bitcast(builder.gep(start, [j]), kind(_F32, LANES).as_pointer()))
    out.align = 4
    return out


def _everywhere(builder: Any, number: Any) -> Numbers:
    nothing = ir.Constant(kind(_F32, LANES), ir.Undefined)
    first = builder.insert_element(nothing, number, _I32(0))
    return Numbers(builder, builder.shuffle_vector(first, nothing, _integers(0, LANES)), LANES)


def exp(x: Numbers) -> Numbers:
    """e^x to two units in the last place, clamped to x in [-87, 88]; NaN stays NaN."""
    x = x.at_least(-87.0).at_most(88.0)
    n = x.times_plus(_LOG2E, 0.5).floor()
    r = n.times_plus(-_LN2_LOW, n.times_plus(-_LN2_HIGH, x))
    p = x.constant(_TAYLOR[-1])
    for c in _TAYLOR[-2::-1]:
        p = r.times_plus(p, c)
    return p * n.power_of_two()


def sigmoid(x: Numbers) -> Numbers:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(-x))


def tanh(x: Numbers) -> Numbers:
    """tanh to 1e-7 absolute."""
    return 1.0 - 2.0 / (1.0 + exp(2.0 * x))


exp32, sigmoid32, tanh32 = on_number(exp), on_number(sigmoid), on_number(tanh)
