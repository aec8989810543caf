"""Matrix products that the compiled kernels are made of.

A product runs over register tiles of MR rows by NV vectors. Every element is one chain of fused multiply-adds in the
order of k, so its bits depend neither on the tile's shape nor on the vector width of the machine.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import cfunc, types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from dm2core.compiler import KERNEL, njit

# Twelve or twenty-four accumulators, two or four vectors of b, one of a: what 16 or 32 vector registers hold.
WIDE = bool(llvm.get_host_cpu_features().get("avx512f"))
LANES, MAX_VECTORS = (16, 4) if WIDE else (8, 2)
MR = 6
PAD = 16  # widths of matrices are multiples of this

_F32, _I64 = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)


def _tile(rows: int, vectors: int) -> Any:
    """c[m, :] = init[m, :] + sum_k a[m, k] b[k, :] for one tile; addresses and strides in bytes and elements."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        c, c_row, init, init_row, a, a_row, a_col, b, b_row, depth = args
        fma_type = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fma = get_or_insert_function(builder.module, fma_type, f"llvm.fma.v{LANES}f32")
        pointer = _F32.as_pointer()
        c, init, a, b = (builder.inttoptr(p, pointer) for p in (c, init, a, b))

        def vector_at(base: Any, offset: Any) -> Any:
            return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())

        def load(base: Any, offset: Any) -> Any:
            out = builder.load(vector_at(base, offset))
            out.align = 4
            return out

        def at(row: int, stride: Any, v: int) -> Any:
            return builder.add(builder.mul(stride, _I64(row)), _I64(v * LANES))

        start = [load(init, at(m, init_row, v)) for m in range(rows) for v in range(vectors)]
        a_rows = [builder.mul(a_row, _I64(m)) for m in range(rows)]
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_I64)
        k.add_incoming(_I64(0), before)
        sums = [builder.phi(_VECTOR) for _ in start]
        b_k, a_k = builder.gep(b, [builder.mul(k, b_row)]), builder.gep(a, [builder.mul(k, a_col)])
        b_vectors = [load(b_k, _I64(v * LANES)) for v in range(vectors)]
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        new = []
        for m in range(rows):
            scalar = builder.load(builder.gep(a_k, [a_rows[m]]))
            lane = builder.insert_element(nothing, scalar, ir.IntType(32)(0))
            spread = builder.shuffle_vector(lane, nothing, first)
            new += [builder.call(fma, [spread, b_vectors[v], sums[m * vectors + v]]) for v in range(vectors)]
        k_next = builder.add(k, _I64(1))
        k.add_incoming(k_next, loop)
        for phi, old, value in zip(sums, start, new, strict=True):
            phi.add_incoming(old, before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, after)
        builder.position_at_end(after)
        for m in range(rows):
            for v in range(vectors):
                stored = builder.store(new[m * vectors + v], vector_at(c, at(m, c_row, v)))
                stored.align = 4
        return context.get_dummy_value()

    @intrinsic
    def tile(_, c, c_row, init, init_row, a, a_row, a_col, b, b_row, depth):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 10), code

    return tile


def _strip(vectors: int) -> Any:
    """Tiles of one width stacked over all m rows."""
    six, four, one = _tile(6, vectors), _tile(4, vectors), _tile(1, vectors)

    @njit(**KERNEL)
    def strip(c, c_row, init, init_row, a, a_row, a_col, b, b_row, m, depth):  # type: ignore[no-untyped-def]
        i = 0
        while i + 6 <= m:
            six(c, c_row, init, init_row, a, a_row, a_col, b, b_row, depth)
            c, init, a = c + 24 * c_row, init + 24 * init_row, a + 24 * a_row
            i += 6
        if i + 4 <= m:
            four(c, c_row, init, init_row, a, a_row, a_col, b, b_row, depth)
            c, init, a = c + 16 * c_row, init + 16 * init_row, a + 16 * a_row
            i += 4
        while i < m:
            one(c, c_row, init, init_row, a, a_row, a_col, b, b_row, depth)
            c, init, a = c + 4 * c_row, init + 4 * init_row, a + 4 * a_row
            i += 1

    return strip


_strip1, _strip2, _strip3, _strip4 = _strip(1), _strip(2), _strip(3), _strip(4)


def _product(c, c_row, init, init_row, a, a_row, a_col, b, b_row, m, n, depth):  # type: ignore[no-untyped-def]
    """Columns in strips of at most MAX_VECTORS vectors, as even as they come; n a multiple of PAD."""
    vectors = n // LANES
    strips = (vectors + MAX_VECTORS - 1) // MAX_VECTORS
    at = 0
    for s in range(strips):
        width = (vectors + s) // strips
        o = 4 * at * LANES
        if width == 4:
            _strip4(c + o, c_row, init + o, init_row, a, a_row, a_col, b + o, b_row, m, depth)
        elif width == 3:
            _strip3(c + o, c_row, init + o, init_row, a, a_row, a_col, b + o, b_row, m, depth)
        elif width == 2:
            _strip2(c + o, c_row, init + o, init_row, a, a_row, a_col, b + o, b_row, m, depth)
        else:
            _strip1(c + o, c_row, init + o, init_row, a, a_row, a_col, b + o, b_row, m, depth)
        at += width


@functools.cache
def _compiled_product() -> Any:
    return cfunc(types.void(*[types.int64] * 12), cache=True)(_product)


def product_address() -> int:
    """Where the compiled product is. Kernels get it as an argument: compiled into each, it took a minute to build."""
    return int(_compiled_product().address)


@intrinsic
def _call(_, address, c, c_row, init, init_row, a, a_row, a_col, b, b_row, m, n, depth):  # type: ignore[no-untyped-def]
    """Call the product at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 12)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 13), code


@njit(**KERNEL)
def affine(product, c, bias, a, b):  # type: ignore[no-untyped-def]
    """c [m, n] = bias [n] + a [m, k] b [k, n]; float32, rows of b and c contiguous, n a multiple of PAD."""
    _call(
        product, c.ctypes.data, c.strides[0] // 4, bias.ctypes.data, 0, a.ctypes.data, a.strides[0] // 4,
        a.strides[1] // 4, b.ctypes.data, b.strides[0] // 4, c.shape[0], c.shape[1], a.shape[1],
    )  # fmt: skip


@njit(**KERNEL)
def accumulate(product, c, a, b):  # type: ignore[no-untyped-def]
    """c [m, n] += a [m, k] b [k, n], as `affine`; a may be a transposed view."""
    _call(
        product, c.ctypes.data, c.strides[0] // 4, c.ctypes.data, c.strides[0] // 4, a.ctypes.data,
        a.strides[0] // 4, a.strides[1] // 4, b.ctypes.data, b.strides[0] // 4, c.shape[0], c.shape[1], a.shape[1],
    )  # fmt: skip
