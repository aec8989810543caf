"""Sums over a row in a fixed order, and fused multiply-adds, for kernels whose bits must not depend on the compiler.

A compiler may reorder a plain loop's sum only if it is allowed to round differently, and then it rounds as it likes:
the same kernel compiled twice in one program gave different bits. Here nothing is reordered. Every sum runs in LANES
partial sums, element j in partial sum j mod LANES, which are then added in pairs: fast on any vector width, equal on
all of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from dm2core.compiler import INLINE, njit

LANES = 16

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)


def _fma(builder: Any, kind: Any, a: Any, b: Any, c: Any) -> Any:
    name = "llvm.fma.f32" if kind is _F32 else f"llvm.fma.v{LANES}f32"
    return builder.call(
        get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), [a, b, c]
    )


@intrinsic
def fma(_, a, b, c):  # type: ignore[no-untyped-def]
    """a b + c of float32 numbers, rounded once."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, _F32, *args)

    return types.float32(types.float32, types.float32, types.float32), code


def _row_sum(term: Any) -> Any:
    """Intrinsic (address, address, number, n) -> sum of a term over n elements; n a multiple of LANES, perhaps 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.inttoptr(p, _F32.as_pointer()) for p in args[:2])
        number, n = args[2:]
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        head, loop, after = (builder.append_basic_block() for _ in range(3))
        before = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        j, sums = builder.phi(_I64), builder.phi(_VECTOR)
        builder.cbranch(builder.icmp_signed("<", j, n), loop, after)
        builder.position_at_end(loop)

        def load(base: Any) -> Any:
            out = builder.load(builder.bitcast(builder.gep(base, [j]), _VECTOR.as_pointer()))
            out.align = 4
            return out

        added = term(builder, load, a, b, number, sums)
        j.add_incoming(_I64(0), before)
        j.add_incoming(builder.add(j, _I64(LANES)), loop)
        sums.add_incoming(zero, before)
        sums.add_incoming(added, loop)
        builder.branch(head)
        builder.position_at_end(after)
        total, width = sums, LANES
        while width > 1:
            width //= 2
            halves = (
                ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                for start in (0, width)
            )
            low, high = (builder.shuffle_vector(total, total, half) for half in halves)
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.IntType(32)(0))

    @intrinsic
    def row_sum(_, a, b, number, n):  # type: ignore[no-untyped-def]
        return types.float32(types.intp, types.intp, types.float32, types.intp), code

    return row_sum


def _spread(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    lane = builder.insert_element(nothing, number, ir.IntType(32)(0))
    return builder.shuffle_vector(
        lane, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _square(builder: Any, load: Any, a: Any, b: Any, mean: Any, sums: Any) -> Any:
    e = builder.fsub(load(a), _spread(builder, mean))
    return _fma(builder, _VECTOR, e, e, sums)


_total = _row_sum(lambda builder, load, a, b, number, sums: builder.fadd(sums, load(a)))
_dot = _row_sum(lambda builder, load, a, b, number, sums: _fma(builder, _VECTOR, load(a), load(b), sums))
_squares = _row_sum(_square)


@njit(**INLINE)
def total(a):  # type: ignore[no-untyped-def]
    """Sum of a contiguous float32 row; a tail shorter than LANES is added one by one."""
    whole = a.size - a.size % LANES
    out = _total(a.ctypes.data, a.ctypes.data, a.dtype.type(0.0), whole)
    for j in range(whole, a.size):
        out += a[j]
    return out


@njit(**INLINE)
def dot(a, b):  # type: ignore[no-untyped-def]
    """Scalar product of two contiguous float32 rows, as `total`."""
    whole = a.size - a.size % LANES
    out = _dot(a.ctypes.data, b.ctypes.data, a.dtype.type(0.0), whole)
    for j in range(whole, a.size):
        out = fma(a[j], b[j], out)
    return out


@njit(**INLINE)
def squares(a, mean):  # type: ignore[no-untyped-def]
    """Sum of (a - mean)^2 over a contiguous float32 row, as `total`."""
    whole = a.size - a.size % LANES
    out = _squares(a.ctypes.data, a.ctypes.data, mean, whole)
    for j in range(whole, a.size):
        e = a[j] - mean
        out = fma(e, e, out)
    return out


@intrinsic
def _prefetch(_, address):  # type: ignore[no-untyped-def]
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, all_caches, data = i32(0), i32(3), i32(1)
        builder.call(function, [builder.inttoptr(args[0], byte), read, all_caches, data])
        return context.get_dummy_value()

    return types.void(types.intp), code


@njit(**INLINE)
def prefetch(row):  # type: ignore[no-untyped-def]
    """Ask for a contiguous row that is read soon, from memory into the cache; changes nothing."""
    for byte in range(0, row.size * row.itemsize, 64):
        _prefetch(row.ctypes.data + byte)
