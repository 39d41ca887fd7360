"""What the tests run in a process of its own: ``compile FAMILY`` or ``memory METHOD``."""

import os
import sys
from pathlib import Path

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from experts.models import network_of
from experts.reference import random_layer

import moesaic.experts
from moesaic.experts import grouped, looped, operators
from moesaic.experts.functions import swiglu_experts


def compile_model(family):
    """The compiled model has no break in its graph, and gives the losses and gradients of the plain one."""
    network = network_of(family)
    network.set_experts_implementation(moesaic.experts.IMPLEMENTATION)
    tokens = torch.arange(60).view(2, 30) % 200
    plain = network(input_ids=tokens, labels=tokens, use_cache=False)
    plain.loss.backward()
    expected = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    network.zero_grad()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    output = compiled(input_ids=tokens, labels=tokens, use_cache=False)
    output.loss.backward()
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-3, atol=1e-3)
    for name, parameter in network.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-2, atol=1e-4)


def call_often(method):
    """Ten thousand calls, forward and backward, leave the process as large as it was."""
    chosen = {"grouped": grouped, "looped": looped}[method]
    operators.choose_method = lambda *_: chosen
    torch.set_num_threads(1)
    layer = random_layer(4, 16, 16, 2, 1)

    def call(times):
        for _ in range(times):
            swiglu_experts(*layer, dtype=torch.float32).sum().backward()

    if method == "grouped" and not grouped.is_available():
        return
    process = psutil.Process(os.getpid())
    call(1000)
    before = process.memory_info().rss
    call(10_000)
    grown = process.memory_info().rss - before
    assert grown < 4 << 20, f"{grown:,} bytes"


if __name__ == "__main__":
    {"compile": compile_model, "memory": call_often}[sys.argv[1]](sys.argv[2])
