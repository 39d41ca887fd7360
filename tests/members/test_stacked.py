import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from moesaic.members import LoopedMembers, StackedMembers, choose_execution, join_members, layer_rule
from moesaic.members.layer_rules import LONGEST_UNFUSED, find_rule, has_rules

MEMBERS, BATCH = 3, 4


def several(make):
    """Members with weights of their own, in evaluation mode, also where an initial weight is the same for all."""
    torch.manual_seed(0)
    modules = [make().eval() for _ in range(MEMBERS)]
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return modules


def mlp(width=8):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(width, 3))


def encoder(**settings):
    settings = {"dropout": 0.0, "batch_first": True, **settings}
    layer = nn.TransformerEncoderLayer(8, 2, 12, **settings)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)


class Gated(nn.Module):
    """A module of a user's own, with a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("scale", torch.rand(()))

    def forward(self, inputs):
        return self.scale * inputs * self.linear(inputs).sigmoid()


WITH_RULES = {
    "an MLP": (mlp, (6,)),
    "one layer": (lambda: nn.Linear(6, 3, bias=False), (6,)),
    "one activation twice": (
        lambda: nn.Sequential(nn.Linear(6, 6), tanh := nn.Tanh(), nn.Linear(6, 6), tanh),
        (6,),
    ),
    "an activation in place comes first": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)), (6,)),
    "norms": (
        lambda: nn.Sequential(nn.LayerNorm(6), nn.RMSNorm((5, 6)), nn.LayerNorm(6, bias=False), nn.LayerNorm(6, 1e-3)),
        (5, 6),
    ),
    "a norm without weights": (lambda: nn.Sequential(nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)), (6,)),
    "flattened from the front": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 2)), (5, 6)),
    "flattened from the back": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Flatten(-2), nn.Linear(30, 2)), (5, 6)),
    "norms after": (encoder, (5, 8)),
    "norms before": (lambda: encoder(norm_first=True, activation=nn.GELU()), (5, 8)),
    "no biases": (lambda: encoder(bias=False, activation="gelu"), (5, 8)),
    "a long sequence": (encoder, (LONGEST_UNFUSED + 1, 8)),
}

WITHOUT_RULES = {
    "a convolution": (lambda: nn.Sequential(nn.Conv1d(5, 2, 3), nn.Flatten(), nn.Linear(8, 2)), (5, 6)),
    "a module of one's own": (lambda: nn.Sequential(Gated(), nn.Linear(6, 3)), (6,)),
    "batch normalization": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), (6,)),
    "positions before the batch": (lambda: encoder(batch_first=False), (5, 8)),
}


def check_equal_to_the_loop(make, shape, per_member):
    modules = several(make)
    for module in modules:
        module.train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    joined = StackedMembers(modules)
    inputs = torch.randn(MEMBERS, BATCH, *shape) if per_member else torch.randn(BATCH, *shape)
    # Copies, since an activation may work in place on what it is given.
    outputs = joined(inputs.clone(), per_member=per_member)
    expected = [
        module(rows.clone()) for module, rows in zip(modules, inputs if per_member else [inputs] * MEMBERS, strict=True)
    ]
    torch.testing.assert_close(outputs, torch.stack(expected), atol=1e-5, rtol=1e-5)

    outputs.square().sum().backward()
    for output in expected:
        output.square().sum().backward()
    stacked = dict(joined.members.named_parameters())
    for number, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(stacked[name].grad[number], parameter.grad, atol=1e-4, rtol=1e-5)
    # Buffers that forward changes, such as running means.
    for trained, module in zip(joined.unstack(), modules, strict=True):
        for ours, theirs in zip(trained.buffers(), module.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("per_member", [False, True], ids=["shared inputs", "inputs of their own"])
@pytest.mark.parametrize(("make", "shape"), WITH_RULES.values(), ids=WITH_RULES)
def test_layers_with_rules_give_the_loops_outputs_and_gradients(make, shape, per_member):
    assert has_rules(make())
    check_equal_to_the_loop(make, shape, per_member)


# vmap tells of operators that it runs one member at a time; that it is slow there is why rules exist.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("per_member", [False, True], ids=["shared inputs", "inputs of their own"])
@pytest.mark.parametrize(("make", "shape"), WITHOUT_RULES.values(), ids=WITHOUT_RULES)
def test_layers_without_rules_do_so_under_vmap(make, shape, per_member):
    assert not has_rules(make())
    check_equal_to_the_loop(make, shape, per_member)


@pytest.mark.parametrize(("make", "shape"), [WITH_RULES["an MLP"], WITH_RULES["norms before"], WITH_RULES["norms"]])
def test_under_autocast_they_multiply_in_its_type(make, shape):
    modules = several(make)
    joined = StackedMembers(modules)
    inputs = torch.randn(BATCH, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, expected = joined(inputs), torch.stack([module(inputs) for module in modules])
    assert outputs.dtype == expected.dtype
    # bfloat16 has 8 bits, and the two round at other places.
    assert (outputs - expected).norm() < 2e-2 * expected.norm()
    outputs.float().square().sum().backward()
    expected.float().square().sum().backward()
    for name, parameter in joined.members.named_parameters():
        gradient = torch.stack([module.get_parameter(name).grad for module in modules])
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradient).norm() < 5e-2 * gradient.norm()


def test_inputs_get_the_gradient_of_all_members():
    modules = several(lambda: nn.Linear(6, 3))
    inputs = torch.randn(BATCH, 6, requires_grad=True)
    StackedMembers(modules)(inputs).sum().backward()
    # Each output is w·x, so the gradient of x is the sum of all rows w of all members.
    expected = sum(module.weight.sum(dim=0) for module in modules)
    torch.testing.assert_close(inputs.grad, expected.expand(BATCH, 6))


def test_embeddings_look_up_each_members_own_vectors_and_do_not_train_padding():
    modules = several(lambda: nn.Embedding(5, 4, padding_idx=0))
    joined = StackedMembers(modules)
    tokens = torch.tensor([[1, 4, 0], [2, 2, 0]])
    outputs = joined(tokens)
    assert torch.equal(outputs, torch.stack([module(tokens) for module in modules]))
    outputs.sum().backward()
    # How often each token is there; the padding is not counted.
    counts = torch.tensor([0.0, 1, 2, 0, 1])
    assert torch.equal(joined.members.weight.grad, counts.view(1, 5, 1).expand(MEMBERS, 5, 4))


def test_an_embedding_that_changes_its_vectors_has_no_rule():
    assert find_rule(nn.Embedding(5, 4, max_norm=1.0)) is None


@pytest.mark.parametrize("inputs_of_their_own", [False, True])
def test_dropout_falls_differently_for_each_member(inputs_of_their_own):
    joined = StackedMembers([nn.Dropout(0.5) for _ in range(MEMBERS)])
    inputs = torch.ones(MEMBERS, 1000) if inputs_of_their_own else torch.ones(1000)
    torch.manual_seed(0)
    outputs = joined(inputs, per_member=inputs_of_their_own)
    assert set(outputs.unique().tolist()) == {0.0, 2.0}
    # Of 1000 places two members agree on about half; 5 standard deviations are 80 places.
    assert abs((outputs[0] == outputs[1]).sum() - 500) < 80
    assert torch.equal(joined.eval()(inputs, per_member=inputs_of_their_own), torch.ones(MEMBERS, 1000))


def test_dropout_within_attention_falls_only_in_training():
    joined = StackedMembers(several(lambda: encoder(dropout=0.5)))
    inputs = torch.randn(BATCH, 5, 8)
    assert torch.equal(joined(inputs), joined(inputs))
    joined.train()
    assert not torch.allclose(joined(inputs), joined(inputs))


def test_hooks_are_called():
    modules = several(lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    for module in modules:
        module[1].register_forward_hook(lambda layer, inputs, output: output + 1)
    inputs = torch.randn(BATCH, 6)
    expected = torch.stack([module(inputs) for module in modules])
    torch.testing.assert_close(StackedMembers(modules)(inputs), expected)


def test_unstacked_members_are_the_members_bit_by_bit():
    for make in (mlp, encoder, lambda: nn.Sequential(Gated(), nn.BatchNorm1d(6))):
        modules = several(make)
        modules = [module.requires_grad_(False) for module in modules]
        unstacked = StackedMembers(modules).unstack()
        assert len(unstacked) == MEMBERS
        for before, after in zip(modules, unstacked, strict=True):
            assert type(after) is type(before)
            assert not any(parameter.requires_grad for parameter in after.parameters())
            for (name, ours), (other, theirs) in zip(
                before.state_dict().items(), after.state_dict().items(), strict=True
            ):
                assert name == other
                assert torch.equal(ours, theirs)


def test_members_are_copied_and_unstacked_members_too():
    for join in (StackedMembers, LoopedMembers):
        modules = several(lambda: nn.Linear(6, 3))
        joined = join(modules)
        before = modules[0].weight.clone()
        with torch.no_grad():
            next(joined.parameters()).zero_()
        assert torch.equal(modules[0].weight, before)
        unstacked = joined.unstack()
        assert not unstacked[0].weight.any()
        with torch.no_grad():
            unstacked[0].weight.fill_(1)
        assert not joined.unstack()[0].weight.any()


def test_a_weight_that_is_used_twice_stays_one():
    def make():
        module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        module[2].weight = module[0].weight
        return module

    joined = StackedMembers(several(make))
    assert joined.members[2].weight is joined.members[0].weight
    unstacked = joined.unstack()[1]
    assert unstacked[2].weight is unstacked[0].weight
    check_equal_to_the_loop(make, (6,), per_member=False)


def test_the_state_is_ordinary_tensors(tmp_path):
    joined = StackedMembers(several(mlp))
    shapes = {name: tuple(tensor.shape) for name, tensor in joined.state_dict().items()}
    assert shapes == {
        "members.0.weight": (3, 8, 6),
        "members.0.bias": (3, 8),
        "members.3.weight": (3, 3, 8),
        "members.3.bias": (3, 3),
    }
    save_file(joined.state_dict(), tmp_path / "members.safetensors")
    other = StackedMembers([mlp().eval() for _ in range(MEMBERS)])
    other.load_state_dict(load_file(tmp_path / "members.safetensors"))
    inputs = torch.randn(BATCH, 6)
    assert torch.equal(other(inputs), joined(inputs))


# Without biases, since that of the keys changes no attention weight: its gradient is rounding, which Adam scales up.
@pytest.mark.parametrize("make", [mlp, lambda: nn.Sequential(encoder(bias=False), nn.Flatten(), nn.Linear(40, 3))])
def test_members_trained_stacked_are_the_members_trained_apart(make):
    modules = several(make)  # in evaluation mode, so without dropout
    shape = (6,) if isinstance(modules[0][0], nn.Linear) else (5, 8)
    rows = torch.randn(20, MEMBERS, BATCH, *shape)
    labels = torch.randint(3, (20, MEMBERS, BATCH))

    joined = StackedMembers(modules)
    optimizer = torch.optim.Adam(joined.parameters(), lr=1e-2)
    for step in range(20):
        optimizer.zero_grad()
        logits = joined(rows[step], per_member=True)
        losses = [F.cross_entropy(logits[member], labels[step, member]) for member in range(MEMBERS)]
        sum(losses).backward()
        optimizer.step()

    for number, (module, stacked) in enumerate(zip(modules, joined.unstack(), strict=True)):
        before = [parameter.clone() for parameter in module.parameters()]
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for step in range(20):
            optimizer.zero_grad()
            F.cross_entropy(module(rows[step, number]), labels[step, number]).backward()
            optimizer.step()
        assert max((now - then).abs().max() for now, then in zip(module.parameters(), before, strict=True)) > 0.05
        for ours, theirs in zip(stacked.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_rule_can_be_added():
    class Square(nn.Module):
        def forward(self, inputs):
            raise AssertionError("the rule runs instead")

    layer_rule(Square)(lambda layer, inputs: inputs.square())
    outputs = StackedMembers([Square(), Square()])(torch.tensor([3.0]))
    assert torch.equal(outputs, torch.tensor([[9.0], [9.0]]))


def renamed(module):
    module.extra = nn.Parameter(torch.zeros(2))
    return module


DIFFERENT = {
    "0.weight is (8, 6) float32 in the one and (9, 6) float32 in the other": lambda: (mlp(8), mlp(9)),
    "weight is (3, 6) float32 in the one and (3, 6) float64 in the other": lambda: (
        nn.Linear(6, 3),
        nn.Linear(6, 3).double(),
    ),
    "weight is (3, 6) float32 in the one and (3, 6) float32, frozen in the other": lambda: (
        nn.Linear(6, 3),
        nn.Linear(6, 3).requires_grad_(False),
    ),
    "bias is (3,) float32 in the one and missing in the other": lambda: (nn.Linear(6, 3), nn.Linear(6, 3, bias=False)),
    "extra is missing in the one and (2,) float32 in the other": lambda: (nn.Linear(6, 3), renamed(nn.Linear(6, 3))),
    "1 is ReLU in the one and GELU in the other": lambda: (
        nn.Sequential(nn.Linear(6, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(6, 3), nn.GELU()),
    ),
    "the module.training is True in the one and False in the other": lambda: (mlp(), mlp().eval()),
    "layers.0.self_attn.num_heads is 2 in the one and 4 in the other": lambda: (
        encoder(),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 4, 12, 0.0, batch_first=True), 2, nn.LayerNorm(8), enable_nested_tensor=False
        ),
    ),
    "layers.0.activation is silu in the one and tanh in the other": lambda: (
        encoder(activation=F.silu),
        encoder(activation=F.tanh),
    ),
}


@pytest.mark.parametrize(("difference", "make"), DIFFERENT.items(), ids=DIFFERENT)
def test_members_that_differ_are_refused_with_the_first_difference(difference, make):
    first, other = make()
    message = (
        f"Members 0 and 2 cannot be stacked: {difference}. Stack members of one shape and mode, or join them with "
        "execution='loop'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        StackedMembers([first, first, other])
    assert choose_execution([first, first, other], (BATCH,)) == "loop"


@pytest.mark.parametrize("join", [StackedMembers, LoopedMembers, join_members])
def test_no_members_are_refused(join):
    with pytest.raises(ValueError, match=r"^There must be at least one member, got none\.$"):
        join([])


@pytest.mark.parametrize("join", [StackedMembers, LoopedMembers])
def test_inputs_of_their_own_are_as_many_as_members(join):
    message = (
        "With per_member=True inputs are (member, batch, ...) for 3 members, got (4, 6). "
        "Leave it off where all members read the same."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        join(several(mlp))(torch.zeros(4, 6), per_member=True)


def test_a_layer_that_cannot_be_stacked_is_named():
    class Impatient(nn.Module):
        def forward(self, inputs):
            return inputs if bool(inputs.sum() > 0) else -inputs

    joined = StackedMembers([nn.Sequential(Impatient()) for _ in range(2)])
    with pytest.raises(
        ValueError,
        match=r"^Impatient has no rule to run stacked, and torch\.func\.vmap cannot run it \(.*\)\. "
        r"Give it a rule with layer_rule, or join the members with execution='loop'\.$",
    ):
        joined(torch.ones(3))


def test_looped_members_are_called_like_stacked_ones():
    modules = several(mlp)
    stacked, looped = StackedMembers(modules), LoopedMembers(modules)
    for inputs, per_member in ((torch.randn(BATCH, 6), False), (torch.randn(MEMBERS, BATCH, 6), True)):
        torch.testing.assert_close(
            looped(inputs, per_member=per_member), stacked(inputs, per_member=per_member), atol=1e-5, rtol=1e-5
        )


def test_small_members_are_stacked_and_large_ones_are_not():
    # One layer of 64 x 64 has 4096 multiply-adds a row; the threshold lies at 60 million.
    layers = [nn.Linear(64, 64) for _ in range(2)]
    assert choose_execution(layers, (60_000_000 // 4096,)) == "stacked"
    assert choose_execution(layers, (60_000_000 // 4096 + 1,)) == "loop"
    assert choose_execution(layers, (16, 60_000_000 // 4096 // 16 + 1)) == "loop"
    # A table is looked up in, whatever its size.
    tables = [nn.Sequential(nn.Embedding(2000, 64), nn.Linear(64, 64)) for _ in range(2)]
    assert choose_execution(tables, (60_000_000 // 4096,)) == "stacked"


def test_one_member_or_members_without_rules_run_one_by_one():
    assert choose_execution([nn.Linear(6, 3)], (BATCH,)) == "loop"
    assert choose_execution([Gated(), Gated()], (BATCH,)) == "loop"


def test_members_are_joined_as_asked_for():
    modules = several(mlp)
    assert type(join_members(modules)) is StackedMembers
    assert type(join_members(modules, batch_shape=(10**9,))) is LoopedMembers
    assert type(join_members(modules, batch_shape=(10**9,), execution="stacked")) is StackedMembers
    assert type(join_members(modules, execution="loop")) is LoopedMembers
    with pytest.raises(ValueError, match=r"^execution must be 'auto', 'stacked' or 'loop', got 'vmap'\.$"):
        join_members(modules, execution="vmap")
