"""Which method multiplies: a small cost model, in words.

=====================  ==============================================================================================
native (``grouped``)   One pass over the weights of the experts that are used, at any number of rows. Few rows of an
                       expert: each weight is read once, as fast as memory gives it, and never packed. Many rows:
                       packed panels in float32 or bfloat16 (AVX512-BF16).
PyTorch (``looped``)   A matrix product for each expert, by oneDNN or MKL, at some 20 µs of overhead an expert.
=====================  ==============================================================================================

Native is at least as fast wherever its instructions are the processor's best for the type (``benchmarks/experts.py``).
They are not on processors with AMX, whose peak in bfloat16 is several times that of AVX512-BF16: there PyTorch
multiplies once an expert has enough rows for arithmetic, and not reading weights, to take the time. Nor are they on
processors for which only the portable code was built. (AMX is chosen from its peak, not from a measurement of ours.)
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from moesaic.experts import grouped, looped

AMX_ROWS = 32
"""Rows of an expert from which AMX, through oneDNN, multiplies faster than weights are read."""


def choose_method(dtype: torch.dtype, num_slots: int, num_experts: int) -> ModuleType:
    """The module whose functions multiply a batch on the CPU.

    Args:
        dtype: The type in which is multiplied.
        num_slots: Number of tokens times the number of experts that each is sent to.
        num_experts: Number of experts.

    Returns:
        :mod:`moesaic.experts.grouped` or :mod:`moesaic.experts.looped`.
    """
    if not grouped.supports(dtype) or not grouped.is_available():
        return looped
    if grouped.instruction_set() == grouped.InstructionSet.PORTABLE:
        return looped
    if dtype == torch.bfloat16 and _has_amx() and num_slots / num_experts >= AMX_ROWS:
        return looped
    return grouped


@functools.cache
def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
