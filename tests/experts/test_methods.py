import pytest
import torch

from moesaic.experts import grouped, looped, methods
from moesaic.experts.grouped import InstructionSet


@pytest.fixture
def machine(monkeypatch):
    """A processor to choose for."""

    def describe(instruction_set, *, amx=False, built=True):
        monkeypatch.setattr(grouped, "is_available", lambda: built)
        monkeypatch.setattr(grouped, "instruction_set", lambda: instruction_set)
        monkeypatch.setattr(methods, "_has_amx", lambda: amx)

    return describe


def test_native_kernels_multiply_where_their_instructions_are_the_best(machine):
    machine(InstructionSet.AVX512_BF16)
    for num_tokens in (1, 4096):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert methods.choose_method(dtype, 2 * num_tokens, 8) is grouped


def test_amx_multiplies_many_rows_of_bfloat16(machine):
    machine(InstructionSet.AVX512_BF16, amx=True)
    assert methods.choose_method(torch.bfloat16, 8192, 8) is looped
    assert methods.choose_method(torch.bfloat16, 2, 8) is grouped
    assert methods.choose_method(torch.float32, 8192, 8) is grouped


def test_pytorch_multiplies_without_native_kernels(machine):
    machine(InstructionSet.AVX512_BF16, built=False)
    assert methods.choose_method(torch.float32, 2, 8) is looped
    machine(InstructionSet.PORTABLE)
    assert methods.choose_method(torch.float32, 2, 8) is looped


def test_float64_is_left_to_pytorch(machine):
    machine(InstructionSet.AVX512_BF16)
    assert methods.choose_method(torch.float64, 8192, 8) is looped
