import pytest
import torch

from moesaic.experts import train_only
from moesaic.testing import tiny_causal_lm, tiny_mixtral


def test_only_the_named_experts_change_and_the_others_keep_their_bits():
    network = tiny_mixtral()
    network.set_experts_implementation("moesaic")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tokens = torch.randint(0, 300, (2, 30))
    with train_only(network, [1, 3]):
        trained = [value for name, value in network.named_parameters() if "trained_experts" in name]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        network(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert len(trained) == 2 * 2 * 2  # layers, experts, weights
    assert set(network.state_dict()) == set(before)
    for name, value in network.state_dict().items():
        if "experts" in name:
            changed = [not torch.equal(value[expert], before[name][expert]) for expert in range(4)]
            assert changed == [False, True, False, True], name
        else:
            assert torch.equal(value, before[name]), name


def test_gradients_are_those_of_training_all_experts():
    network = tiny_mixtral()
    network.set_experts_implementation("moesaic")
    tokens = torch.randint(0, 300, (2, 30))
    network(input_ids=tokens, labels=tokens).loss.backward()
    layer = network.model.layers[1].mlp.experts
    expected = layer.gate_up_proj.grad[2].clone()
    with train_only(network, [2]):
        network.zero_grad()
        network(input_ids=tokens, labels=tokens).loss.backward()
        assert layer.gate_up_proj.grad is None
        torch.testing.assert_close(layer.trained_experts.gate_up_proj[0].grad, expected)


def test_what_was_frozen_stays_frozen_afterwards():
    network = tiny_mixtral()
    layers = [layer.mlp.experts for layer in network.model.layers]
    layers[0].gate_up_proj.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"), train_only(network, [0]):
        raise RuntimeError("stop")
    assert [layer.gate_up_proj.requires_grad for layer in layers] == [False, True]
    assert not hasattr(layers[0], "trained_experts")


@pytest.mark.parametrize("experts", [[4], [-1], [], [1, 1]])
def test_a_choice_that_is_none_is_refused(experts):
    message = (
        rf"^experts \[{', '.join(map(str, experts))}\] are not a choice of the 4 experts of a layer; name each at most "
        r"once, from 0 to 3\.$"
    )
    with pytest.raises(ValueError, match=message), train_only(tiny_mixtral(), experts):
        pass


def test_a_dense_model_has_no_experts_to_train():
    message = r"^LlamaForCausalLM has no experts with gate_up_proj and down_proj to train\.$"
    with pytest.raises(ValueError, match=message), train_only(tiny_causal_lm(), [0]):
        pass
