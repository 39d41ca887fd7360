import pytest
from transformers import LlamaConfig, MixtralConfig

from moesaic.planning import ModelSize, calibration, model_size, training_bytes, training_speed
from moesaic.training import TrainingOptions, language_modeling

SIZES = {
    "vocab_size": 100,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
DENSE = LlamaConfig(**SIZES, tie_word_embeddings=True)
SPARSE = MixtralConfig(**SIZES, tie_word_embeddings=True, num_local_experts=4, num_experts_per_tok=2)


def test_parameters_are_counted_without_making_the_model():
    # Embeddings 100 * 8, tied; in each layer attention 4 * 8 * 8, feed-forward 3 * 8 * 16, two norms of 8; a last norm.
    assert model_size(DENSE) == ModelSize(800 + 3 * (256 + 384 + 16) + 8, 800 + 3 * (256 + 384 + 16) + 8)


def test_a_sparse_model_has_parameters_that_do_not_work():
    # In each layer 4 experts of 384, of which 2 work, and a router of 4 * 8.
    total = 800 + 3 * (256 + 4 * 384 + 32 + 16) + 8
    assert model_size(SPARSE) == ModelSize(total, total - 3 * 2 * 384)


def test_memory_counts_weights_adam_and_what_the_backward_pass_needs():
    # 16 bytes a parameter; floats a token: 3 * 100, and in each of 3 layers 14 * 8 + 3 * 16 + 2 * 2 * 4.
    assert training_bytes(DENSE, ModelSize(10, 10), batch_size=5, sequence_length=4) == 160 + 4 * 20 * (300 + 3 * 176)


@pytest.mark.parametrize("limit", [1_000_000, 0])
def test_speed_is_measured_whole_or_by_layers(monkeypatch, limit):
    monkeypatch.setattr(calibration, "_MAX_PARAMETERS", limit)
    options = TrainingOptions(num_steps=1000, batch_size=4, sequence_length=8)
    assert 10 < training_speed(DENSE, language_modeling, options) < 1e8
