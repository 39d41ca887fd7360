import pytest
import torch

from moesaic.members import load_network
from moesaic.moe import (
    assemble,
    find_gates,
    initialize_router,
    load_balance_loss,
    read_routing,
    router_entropy,
    router_z_loss,
)
from moesaic.testing import save_tiny_checkpoint


@pytest.fixture
def network(tmp_path):
    members = [save_tiny_checkpoint(tmp_path / str(seed), seed=seed) for seed in range(3)]
    return load_network(assemble(members, tmp_path / "sparse"))


def texts():
    """Three domains that use different tokens."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.randint(start, start + 60, (8, 16), generator=generator)] for start in (10, 110, 210)]


@pytest.mark.parametrize("method", ["prototypes", "ridge"])
def test_a_fitted_router_sends_each_domain_to_its_own_expert(network, method):
    initialize_router(network, texts(), method=method)
    for expert, (tokens,) in enumerate(texts()):
        routing = read_routing(network(tokens, output_router_logits=True).router_logits, network.config)
        share = (routing.weights.argmax(-1) == expert).float().mean().item()
        assert share > 0.5  # chance is a third


def test_ridge_weighs_domains_alike_whatever_their_size(network):
    before = initialize_router(network, texts(), method="ridge")
    larger = [[tokens] * (5 if domain == 0 else 1) for domain, (tokens,) in enumerate(texts())]
    after = initialize_router(network, larger, method="ridge")
    torch.testing.assert_close(after[0], before[0], rtol=0.01, atol=0.0)


def test_fitting_leaves_no_hook_behind(network):
    initialize_router(network, texts(), method="ridge")
    assert all(not gate._forward_hooks for gate in find_gates(network))


def test_a_random_router_is_the_same_for_the_same_seed(network):
    first = initialize_router(network, texts(), method="random", seed=4)
    assert torch.equal(first[1], initialize_router(network, texts(), method="random", seed=4)[1])
    assert torch.equal(find_gates(network)[1].weight, first[1])


def test_a_wrong_number_of_domains_is_refused(network):
    with pytest.raises(ValueError, match=r"^The model has 3 experts, but there is text of 2 domains\.$"):
        initialize_router(network, texts()[:2], method="ridge")


def test_an_unknown_method_is_refused(network):
    with pytest.raises(ValueError, match=r"^method must be random, prototypes or ridge, got 'magic'\.$"):
        initialize_router(network, texts(), method="magic")


def one_sided(expert):
    """Router logits of 8 tokens, all sent to one of two experts with certainty."""
    return torch.tensor([[40.0, 0.0]] * 8 if expert == 0 else [[0.0, 40.0]] * 8)


def test_balance_is_one_when_all_experts_get_the_same():
    # f = (1/2, 1/2), p = (1/2, 1/2): 2 * (1/4 + 1/4) = 1
    assert load_balance_loss([torch.cat([one_sided(0), one_sided(1)])], top_k=1).item() == pytest.approx(1)


def test_a_collapsed_layer_is_not_hidden_by_another():
    # Each layer sends everything to one expert: 2 * (1 * 1) = 2. Pooled over layers it would look even, and score 1.
    assert load_balance_loss([one_sided(0), one_sided(1)], top_k=1).item() == pytest.approx(2)


def test_the_balance_loss_pushes_against_the_collapse():
    logits = torch.tensor([[1.0, 0.0]] * 8, requires_grad=True)
    load_balance_loss([logits], top_k=1).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1] < 0).all()


def test_the_z_loss_is_the_squared_log_sum():
    # logsumexp(0, 0) = log 2
    assert router_z_loss([torch.zeros(4, 2)]).item() == pytest.approx(0.6931**2, abs=1e-3)


def test_the_entropy_is_zero_where_the_router_is_sure():
    # (0.5, 0.5) has log 2 nats, (1, 0) none; their mean is half of log 2
    assert router_entropy([torch.tensor([[0.0, 0.0], [50.0, 0.0]])]).item() == pytest.approx(0.6931 / 2, abs=1e-3)
