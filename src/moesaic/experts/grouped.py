"""Products of rows and experts' matrices in native code: the primitives of ``native/grouped.cpp`` on tensors.

:mod:`moesaic.experts.looped` has the same functions in PyTorch. Matrices are ``(expert, column, length)`` where
``length`` is summed over; one of the last two must be contiguous, so a transposed layout is a view.

The library is built when moesaic is installed, if there is a C++ compiler. It is called through ctypes and knows
nothing of PyTorch's version; threads are PyTorch's own.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import importlib.machinery
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moesaic.experts.rows import ExpertRows

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class InstructionSet(enum.IntEnum):
    """What the native kernels were compiled for; a processor runs those up to its own best."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3


class _Epilogue(enum.IntEnum):
    PLAIN = 0
    SWIGLU = 1
    SWIGLU_GRADIENT = 2


class _Request(ctypes.Structure):
    # The order of fields is that of `Request` in grouped.cpp.
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("num_tokens", "top_k", "num_experts", "num_rows", "pairs", "epilogue")),
        ("tokens", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("token_type", "token_width")),
        ("rows", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("row_type", "row_width", "row_stride")),
        ("matrix", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("matrix_type", "expert_stride", "column_stride", "sum_stride", "columns", "length")
        ),
        *((name, ctypes.c_void_p) for name in ("order", "token_of_row", "offsets", "weights", "activations")),
        ("activation_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("pre_activations", "weight_gradient", "gradients")),
        *((name, ctypes.c_int64) for name in ("gradient_type", "tokens_left")),
    ]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The native library, or ``None`` where it was not built or PyTorch does not offer its threads."""
    folder = Path(__file__).parent
    found = [folder / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in found if path.exists()), None)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.moesaic_sort.restype = ctypes.c_int64
    library.moesaic_sort.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3]
    library.moesaic_instruction_set.restype = ctypes.c_int64
    library.moesaic_instruction_set.argtypes = [ctypes.c_int64]
    library.moesaic_set_threads.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    for name in ("moesaic_rows_from_tokens", "moesaic_tokens_from_rows", "moesaic_weight_gradient"):
        getattr(library, name).restype = ctypes.c_int64
    return library


@functools.cache
def _parallel_for() -> int | None:
    """Address of the function with which PyTorch runs a loop on its threads."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            function = getattr(ctypes.CDLL(str(path)), "torch_parallel_for", None)
            return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
    return None


def _native() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "ask is_available() first"
    return library


def is_available() -> bool:
    """Whether the native kernels were built, and PyTorch's threads can run them."""
    return _library() is not None and _parallel_for() is not None


@functools.cache
def instruction_set() -> InstructionSet:
    """The instruction set in use: the processor's best, unless :func:`use_instruction_set` said another."""
    return InstructionSet(_native().moesaic_instruction_set(-1))


def use_instruction_set(wanted: InstructionSet) -> InstructionSet:
    """Use an instruction set from now on, where the processor has it, and return the one before: for tests."""
    before = instruction_set()
    _native().moesaic_instruction_set(int(wanted))
    instruction_set.cache_clear()
    return before


def supports(dtype: torch.dtype) -> bool:
    """Whether the kernels read and write this type."""
    return dtype in _TYPES


def sort_by_expert(top_k_index: Int[Tensor, "token top_k"], num_experts: int) -> ExpertRows:
    """Sort the choices of all tokens by expert.

    Raises:
        ValueError: If an id is negative.
    """
    num_tokens, top_k = top_k_index.shape
    index = top_k_index.contiguous()
    order, token_of_row = torch.empty(2, index.numel(), dtype=torch.int32)
    offsets = torch.empty(num_experts + 1, dtype=torch.int64)
    num_rows = _native().moesaic_sort(
        index.data_ptr(),
        index.numel(),
        top_k,
        num_experts,
        order.data_ptr(),
        token_of_row.data_ptr(),
        offsets.data_ptr(),
    )
    if num_rows < 0:
        raise ValueError(
            f"top_k_index has the id {int(top_k_index.min())}; experts are 0 to {num_experts - 1}, and {num_experts} "
            "marks a choice that is left out."
        )
    return ExpertRows(order[:num_rows], token_of_row[:num_rows], offsets, num_tokens, top_k)


def rows_from_tokens(
    tokens: Float[Tensor, "token length"],
    matrix: Float[Tensor, "expert column length"],
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    out: Float[Tensor, "row column"],
) -> None:
    """Multiply each row's token with its expert's matrix: ``out[r] = matrix[e(r)] @ tokens[t(r)]``.

    Args:
        tokens: One vector a token.
        matrix: One matrix an expert.
        rows: Which token goes to which expert.
        dtype: Multiply in this type; sums are float32.
        out: Where the result goes.
    """
    request = _request(rows, tokens, out, matrix, dtype)
    request.epilogue = _Epilogue.PLAIN
    _run("moesaic_rows_from_tokens", request)


def multiply_rows(
    rows: Float[Tensor, "row length"], matrix: Float[Tensor, "column length"], *, out: Float[Tensor, "row column"]
) -> None:
    """Multiply rows with one matrix, ``out = rows @ matrix.T``: a layer with a single expert that every row goes to."""
    request = _Request(num_tokens=len(rows), top_k=1, num_experts=1, num_rows=len(rows))
    request.pairs = _pairs(rows.dtype)
    request.tokens, request.token_type, request.token_width = rows.data_ptr(), _TYPES[rows.dtype], rows.shape[1]
    request.rows, request.row_type, request.row_width = out.data_ptr(), _TYPES[out.dtype], out.shape[1]
    request.row_stride = out.shape[1]
    request.matrix, request.matrix_type = matrix.data_ptr(), _TYPES[matrix.dtype]
    request.column_stride, request.sum_stride = matrix.stride()
    request.columns, request.length = matrix.shape
    offsets = (ctypes.c_int64 * 2)(0, len(rows))
    request.offsets = ctypes.addressof(offsets)
    _run("moesaic_rows_from_tokens", request)


def swiglu_rows(
    tokens: Float[Tensor, "token length"],
    matrix: Float[Tensor, "expert column length"],
    weights: Float[Tensor, " slot"],
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    activations: Float[Tensor, "row half"],
    pre_activations: Float[Tensor, "row column"] | None,
) -> None:
    """The first half of SwiGLU experts: ``w silu(g) u`` where ``[g; u] = matrix @ token``.

    Args:
        tokens: One vector a token.
        matrix: Gate and up projection, one above the other.
        weights: Routing weight of each slot, float32.
        rows: Which token goes to which expert.
        dtype: Multiply in this type; sums are float32.
        activations: Where the result goes.
        pre_activations: Where ``[g; u]`` goes, if it is wanted for the backward pass.
    """
    request = _request(rows, tokens, pre_activations, matrix, dtype)
    request.epilogue = _Epilogue.SWIGLU
    request.row_type = _TYPES[activations.dtype]
    request.weights = weights.data_ptr()
    request.activations = activations.data_ptr()
    request.activation_stride = activations.stride(0)
    _run("moesaic_rows_from_tokens", request)


def swiglu_rows_gradient(
    gradient: Float[Tensor, "token length"],
    matrix: Float[Tensor, "expert half length"],
    weights: Float[Tensor, " slot"],
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    pre_activations: Float[Tensor, "row column"],
    pre_activation_gradient: Float[Tensor, "row column"] | None,
    activations: Float[Tensor, "row half"] | None,
    weight_gradient: Float[Tensor, " slot"] | None,
) -> None:
    """The backward pass of the second half of SwiGLU experts and of the activation between.

    Args:
        gradient: Gradient of the experts' output.
        matrix: Down projection, ``(expert, half, hidden)``.
        weights: Routing weight of each slot, float32.
        rows: Which token goes to which expert.
        dtype: Multiply in this type; sums are float32.
        pre_activations: What :func:`swiglu_rows` gave.
        pre_activation_gradient: Where the gradient of ``[g; u]`` goes, if it is wanted.
        activations: Where ``w silu(g) u`` goes, if it is wanted for the gradient of the down projection.
        weight_gradient: Where the gradient of the routing weights goes, if it is wanted; sentinels are left alone.
    """
    request = _request(rows, gradient, pre_activation_gradient, matrix, dtype)
    request.epilogue = _Epilogue.SWIGLU_GRADIENT
    request.row_type = _TYPES[pre_activations.dtype]
    request.weights = weights.data_ptr()
    request.pre_activations = pre_activations.data_ptr()
    if activations is not None:
        request.activations = activations.data_ptr()
        request.activation_stride = activations.stride(0)
    request.weight_gradient = None if weight_gradient is None else weight_gradient.data_ptr()
    _run("moesaic_rows_from_tokens", request)


def tokens_from_rows(
    row_values: Float[Tensor, "row length"],
    matrix: Float[Tensor, "expert column length"],
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    out: Float[Tensor, "token column"],
) -> None:
    """Multiply rows with their experts' matrices and add up those of each token."""
    _run("moesaic_tokens_from_rows", _request(rows, out, row_values, matrix, dtype))


def weight_gradient(
    token_values: Float[Tensor, "token a"],
    row_values: Float[Tensor, "row b"],
    rows: ExpertRows,
    *,
    dtype: torch.dtype,
    tokens_first: bool,
    out: Sequence[Tensor | None],
) -> None:
    """Sum of outer products over the rows of each expert.

    Args:
        token_values: One vector a token.
        row_values: One vector a row.
        rows: Which row belongs to which token and expert.
        dtype: Multiply in this type; sums are float32.
        tokens_first: Whether a gradient is ``(a, b)``; else it is ``(b, a)``.
        out: The gradient of each expert, ``None`` where none is wanted.
    """
    gradient_type = next((gradient.dtype for gradient in out if gradient is not None), None)
    if gradient_type is None:
        return
    request = _request(rows, token_values, row_values, None, dtype)
    addresses = [None if gradient is None else gradient.data_ptr() for gradient in out]
    gradients = (ctypes.c_void_p * len(addresses))(*addresses)
    request.gradients = ctypes.addressof(gradients)
    request.gradient_type = _TYPES[gradient_type]
    request.tokens_left = tokens_first
    _run("moesaic_weight_gradient", request)


def _request(
    rows: ExpertRows, tokens: Tensor, row_values: Tensor | None, matrix: Tensor | None, dtype: torch.dtype
) -> _Request:
    request = _Request(
        num_tokens=rows.num_tokens,
        top_k=rows.top_k,
        num_experts=rows.num_experts,
        num_rows=rows.num_rows,
        pairs=_pairs(dtype),
        tokens=tokens.data_ptr(),
        token_type=_TYPES[tokens.dtype],
        token_width=tokens.shape[1],
        order=rows.order.data_ptr(),
        token_of_row=rows.token_of_row.data_ptr(),
        offsets=rows.offsets.data_ptr(),
    )
    if row_values is not None:
        request.rows = row_values.data_ptr()
        request.row_type = _TYPES[row_values.dtype]
        request.row_width = row_values.shape[1]
        request.row_stride = row_values.stride(0)
    if matrix is not None:
        request.matrix = matrix.data_ptr()
        request.matrix_type = _TYPES[matrix.dtype]
        request.expert_stride, request.column_stride, request.sum_stride = matrix.stride()
        request.columns, request.length = matrix.shape[1:]
    return request


def _pairs(dtype: torch.dtype) -> bool:
    """Whether a type is multiplied two by two; else as float32."""
    return dtype == torch.bfloat16 and instruction_set() == InstructionSet.AVX512_BF16


def _run(function: str, request: _Request) -> None:
    library = _native()
    library.moesaic_set_threads(_parallel_for(), torch.get_num_threads())
    if getattr(library, function)(ctypes.byref(request)):
        raise MemoryError(
            f"{function} could not get the memory to pack {request.num_rows} rows of {request.num_experts} experts. "
            "Use smaller batches."
        )
