"""Bagging, boosting and snapshots of language models: what must hold exactly, and that each does what it is for."""

import re

import numpy as np
import pytest
import torch

from moesaic.combiners import Average
from moesaic.data import BatchSampler, PackedDocuments, evaluation_blocks, take_documents
from moesaic.errors import DataError
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.tasks import next_token_loss
from moesaic.testing import tiny_causal_lm
from moesaic.training import (
    DocumentSample,
    StagewiseLanguageModeling,
    TrainingOptions,
    add_up,
    average_parameters,
    boost,
    fit,
    fit_snapshots,
    greedy_soup,
    language_modeling,
    out_of_bag_nats,
    sample_documents,
    validation_nats,
)


def documents(num_documents=12, length=40, seed=0):
    """Documents that count upwards, by a step of their own, with noise."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(1, 4, (num_documents, 1), generator=generator)
    tokens = (torch.arange(length) * steps + torch.randint(0, 2, (num_documents, length), generator=generator)) % 31 + 1
    starts = torch.arange(num_documents) * length
    return PackedDocuments(tokens.flatten().int(), starts, torch.full((num_documents,), length))


OPTIONS = TrainingOptions(
    num_steps=12, batch_size=8, sequence_length=16, learning_rate=1e-2, num_warmup_steps=2, precision="float32"
)
TRAIN = [documents(), documents(seed=1)]
SAMPLER = BatchSampler(TRAIN, batch_size=8, sequence_length=16, seed=0)
VALIDATION = {"a": evaluation_blocks(documents(seed=2), sequence_length=16)}


def make_network(number=0):
    return tiny_causal_lm(seed=number)


def plain():
    network = make_network()
    fit(network, SAMPLER, language_modeling, OPTIONS)
    return network


def assert_same_weights(first, second):
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["stagewise", "reweighting"])
def test_boosting_with_one_round_is_the_plain_member(method):
    boosted = boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=1, method=method)
    assert boosted.weights == (1.0,)
    expected = plain()
    assert_same_weights(boosted.networks[0], expected)
    tokens = VALIDATION["a"].input_ids
    assert torch.equal(add_up(boosted.networks, boosted.weights)(tokens).logits, expected(tokens).logits)


@pytest.mark.parametrize("method", ["stagewise", "reweighting"])
def test_every_round_lowers_the_held_out_loss(method):
    boosted = boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=3, method=method)
    losses = boosted.validation_nats
    assert list(losses) == sorted(losses, reverse=True) and len(losses) == 3
    assert validation_nats(add_up(boosted.networks, boosted.weights), VALIDATION) == pytest.approx(losses[-1])


def test_the_stagewise_loss_is_that_of_the_sum():
    previous, network, batch = tiny_causal_lm(seed=1), tiny_causal_lm(seed=2), SAMPLER.batch(0)
    loss = StagewiseLanguageModeling(previous, 0.25)(network, batch).total
    expected = next_token_loss(previous(batch.input_ids).logits + 0.25 * network(batch.input_ids).logits, batch.labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is None for parameter in previous.parameters())


def test_a_round_that_does_not_help_ends_boosting_with_a_sentence():
    # A member that hardly learns adds its random logits to a trained sum.
    options = TrainingOptions(num_steps=1, batch_size=8, sequence_length=16, learning_rate=1e-9, precision="float32")
    trained = plain()

    def make(number):
        return trained if number == 0 else make_network(number)

    with pytest.warns(UserWarning) as warned:
        boosted = boost(make, SAMPLER, options, VALIDATION, num_rounds=3, shrinkage=1.0)
    first, second = boosted.validation_nats
    assert second >= first and len(boosted.networks) == 1 and boosted.num_rounds_tried == 2
    assert str(warned[0].message) == (
        f"Boosting stopped: round 2 is no better than chance at what the rounds before it left (loss on held-out text "
        f"{second:.4f}, before it {first:.4f}). 1 of 3 rounds are kept."
    )


class Killed(BaseException):
    pass


def test_boosting_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    whole = boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=2)
    seen = []

    def kill(record):
        seen.append(record)
        if len(seen) == 15:  # in the second round
            raise Killed

    with pytest.raises(Killed):
        boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=2, folder=tmp_path, on_step=kill)
    steps = []
    continued = boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=2, folder=tmp_path, on_step=steps.append)
    assert len(steps) <= 12  # the first round is not done again
    for one, other in zip(whole.networks, continued.networks, strict=True):
        assert_same_weights(one, other)


def test_bagging_without_bootstrap_and_with_equal_seeds_is_the_plain_member():
    sample = sample_documents(TRAIN, seed=5, batch_tokens=128, sequence_length=16, replace=False)
    network = make_network()
    fit(network, BatchSampler(sample.domains, 8, 16, seed=0), language_modeling, OPTIONS)
    assert_same_weights(network, plain())


def test_the_out_of_bag_loss_is_near_the_loss_on_unseen_documents():
    samples = [sample_documents(TRAIN, seed=seed, batch_tokens=128, sequence_length=16) for seed in range(3)]
    networks = []
    for sample in samples:
        networks.append(make_network())
        fit(networks[-1], BatchSampler(sample.domains, 8, 16, seed=0), language_modeling, OPTIONS)
    nats = out_of_bag_nats(networks, samples, TRAIN, sequence_length=16)
    bag = Mixture([CausalLM(str(number), network) for number, network in enumerate(networks)], Average())
    assert nats == pytest.approx(validation_nats(bag, VALIDATION), abs=0.3)


def test_a_document_is_out_of_bag_for_those_that_did_not_draw_it():
    # Document 0 was drawn by the first member alone, document 1 by neither: the second reads 0, both read 1.
    domain = documents(num_documents=2)
    networks = [tiny_causal_lm(seed=1), tiny_causal_lm(seed=2)]
    samples = [DocumentSample((domain,), (np.array(rows, dtype=np.int64),)) for rows in ([0], [])]
    nats = out_of_bag_nats(networks, samples, [domain], sequence_length=40)

    def loss(network, row):
        return validation_nats(
            network, {"": evaluation_blocks(take_documents(domain, np.array([row])), sequence_length=40)}
        )

    both = Mixture([CausalLM("a", networks[0]), CausalLM("b", networks[1])], Average())
    assert nats == pytest.approx((loss(networks[1], 0) + loss(both, 1)) / 2, abs=1e-5)


def test_a_bootstrap_smaller_than_a_batch_is_refused():
    sentence = re.escape(
        "A bootstrap of 0.1 of the documents has 80 tokens, 40 of them in its smallest domain; a batch has 128 and a "
        "sequence 16. Raise max_samples, add text, or lower batch_size."
    )
    with pytest.raises(DataError, match=f"^{sentence}$"):
        sample_documents(TRAIN, seed=0, batch_tokens=128, sequence_length=16, max_samples=0.1)


def test_snapshots_are_different_models_of_one_training():
    snapshots = fit_snapshots(make_network(), SAMPLER, language_modeling, OPTIONS, num_cycles=3)
    losses = [validation_nats(network, VALIDATION) for network in snapshots]
    assert len(set(losses)) == 3 and losses[-1] < losses[0]


def test_one_cycle_is_plain_training():
    (snapshot,) = fit_snapshots(make_network(), SAMPLER, language_modeling, OPTIONS, num_cycles=1)
    assert_same_weights(snapshot, plain())


def test_more_cycles_than_steps_are_refused():
    sentence = re.escape("num_cycles must be from 1 to num_steps (12), got 13.")
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        fit_snapshots(make_network(), SAMPLER, language_modeling, OPTIONS, num_cycles=13)


def test_the_average_of_equal_parameters_is_the_same_model():
    network = make_network()
    assert_same_weights(average_parameters([network, network]), network)


def test_a_greedy_soup_leaves_out_what_spoils_it():
    trained, other = plain(), make_network(1)
    soup, chosen = greedy_soup([other, trained], lambda network: validation_nats(network, VALIDATION))
    assert chosen == [1]
    assert_same_weights(soup, trained)


def test_bad_arguments_are_refused():
    sentence = re.escape(
        "Boosting needs num_rounds of 1 or more and a shrinkage above 0 and at most 1, got num_rounds=0 and "
        "shrinkage=0.5."
    )
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        boost(make_network, SAMPLER, OPTIONS, VALIDATION, num_rounds=0)
