import pytest
import torch
from experts.reference import METHODS

from moesaic.experts.rows import borrowed_rows


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.rpartition(".")[2])
def test_rows_stand_in_the_order_of_experts_and_then_of_tokens(method):
    rows = method.sort_by_expert(torch.tensor([[2, 0], [0, 3], [2, 2]]), num_experts=3)
    assert rows.order.tolist() == [1, 2, 0, 4, 5]  # expert 3 is a sentinel
    assert rows.token_of_row.tolist() == [0, 1, 0, 2, 2]
    assert rows.offsets.tolist() == [0, 2, 2, 5]
    assert (rows.num_rows, rows.num_experts, rows.num_tokens, rows.top_k) == (5, 3, 3, 2)


def test_borrowed_memory_is_used_again_and_never_by_two():
    with borrowed_rows(10, 8, torch.float32) as first, borrowed_rows(10, 8, torch.float32) as second:
        assert first.data_ptr() != second.data_ptr()
        places = {first.data_ptr(), second.data_ptr()}
        assert first.shape == (10, 8)
    with borrowed_rows(10, 8, torch.float32) as third:
        assert third.data_ptr() in places


def test_no_rows_need_no_memory():
    with borrowed_rows(0, 8, torch.bfloat16) as rows:
        assert rows.shape == (0, 8)
