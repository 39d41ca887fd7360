"""Combiners are fitted on held-out rows: to the optimum where the problem is convex, and never to something worse."""

import re

import pytest
import torch
from scipy.optimize import minimize

from moesaic.combiners import Average, Entropy, NoisyTopK, Routed, Sigmoid, Stacked, Weighted
from moesaic.data import NOT_SCORED, EvaluationBlocks
from moesaic.testing import tiny_causal_lm
from moesaic.training import (
    HeldOut,
    collect_held_out,
    combined_nats,
    fit_combiner,
    fit_weights,
    join_held_out,
    select_greedily,
)


def draw_held_out(num_members=3, num_rows=400, num_classes=5, seed=0):
    """Members of different quality on the same random task."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    signal = torch.nn.functional.one_hot(labels, num_classes).float()
    logits = [
        quality * signal + torch.randn(num_rows, num_classes, generator=generator)
        for quality in torch.linspace(0.5, 2.0, num_members).tolist()
    ]
    return HeldOut.of_examples(torch.stack(logits), labels)


def scipy_optimum(log_probabilities):
    probabilities = log_probabilities.double().exp().numpy()
    num_members = probabilities.shape[1]
    result = minimize(
        lambda weights: -torch.tensor(probabilities @ weights).log().mean().item(),
        x0=[1 / num_members] * num_members,
        jac=lambda weights: -(probabilities / (probabilities @ weights)[:, None]).mean(0),
        bounds=[(0, 1)] * num_members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return result.fun


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_members", [2, 3, 8])
def test_constant_weights_reach_the_optimum_that_scipy_finds(num_members, seed):
    log_probabilities = draw_held_out(num_members, seed=seed).target_log_probabilities
    weights = fit_weights(log_probabilities)
    nats = -(log_probabilities.double().exp() @ weights.double()).log().mean().item()
    assert nats == pytest.approx(scipy_optimum(log_probabilities), abs=3e-6)
    assert weights.sum().item() == pytest.approx(1, abs=1e-6) and (weights >= 0).all()


def test_constant_weights_are_never_worse_than_the_best_member():
    log_probabilities = draw_held_out().target_log_probabilities
    nats = -(log_probabilities.double().exp() @ fit_weights(log_probabilities).double()).log().mean()
    assert nats < -log_probabilities.double().mean(0).max()


def test_a_member_that_is_always_better_gets_all_the_weight():
    log_probabilities = torch.tensor([[0.9, 0.3], [0.8, 0.2]]).log()
    torch.testing.assert_close(fit_weights(log_probabilities), torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)


def test_very_small_probabilities_do_not_vanish():
    log_probabilities = torch.tensor([[-800.0, -801.0], [-801.0, -800.0]])
    torch.testing.assert_close(fit_weights(log_probabilities), torch.tensor([0.5, 0.5]))


def test_greedy_selection_is_close_to_the_optimum_and_leaves_members_out():
    # The third member is a guesser that copies the first, only worse.
    held_out = draw_held_out(num_members=2)
    guesser = held_out.member_logits[:1] * 0.1
    log_probabilities = HeldOut(
        torch.cat([held_out.member_logits, guesser]), held_out.input_ids, held_out.labels
    ).target_log_probabilities
    weights = select_greedily(log_probabilities)
    nats = -(log_probabilities.double().exp() @ weights.double()).log().mean().item()
    assert weights[2] == 0
    assert nats == pytest.approx(scipy_optimum(log_probabilities), abs=1e-3)


@pytest.mark.parametrize(
    "make",
    [Weighted, lambda: Weighted(space="log_probability"), Entropy, Stacked],
    ids=["weighted", "in log-probability", "entropy", "stacked"],
)
def test_a_fitted_combiner_is_better_on_rows_it_has_not_seen(make):
    combiner, held_out, unseen = make(), draw_held_out(), draw_held_out(seed=1)
    combiner.attach(3, 5)
    before = combined_nats(combiner, unseen).item()
    fit_combiner(combiner, held_out, learning_rate=0.05)
    assert combined_nats(combiner, unseen).item() < before


def test_fitting_adapts_a_choice_and_judges_it_without_noise():
    held_out = draw_held_out()
    sigmoid, noisy = Routed(choice=Sigmoid(2, bias_update_rate=0.01)), Routed(choice=NoisyTopK(2))
    fit_combiner(sigmoid, held_out, learning_rate=0.05)
    assert sigmoid.choice.bias.abs().max() > 0
    best = fit_combiner(noisy, held_out, learning_rate=0.05)
    kept = held_out.take(torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:80])
    assert combined_nats(noisy.eval(), kept).item() == pytest.approx(best, abs=1e-4)


def test_fitting_by_gradient_agrees_with_the_optimum():
    held_out = draw_held_out()
    combiner = Weighted()
    fit_combiner(combiner, held_out, num_steps=400, batch_size=400, learning_rate=0.1)
    optimum = scipy_optimum(held_out.target_log_probabilities)
    assert combined_nats(combiner, held_out).item() == pytest.approx(optimum, abs=2e-3)


def test_a_stacker_that_begins_at_the_optimum_is_never_made_worse():
    # Members that say nothing of use: all that training finds is noise, so the first parameters are kept.
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (60,), generator=generator)
    held_out = HeldOut.of_examples(torch.randn(3, 60, 5, generator=generator) * 3, labels)
    combiner = Stacked(fit_weights(held_out.target_log_probabilities).tolist())
    combiner.attach(3, 5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    kept = held_out.take(order[:12])
    before = combined_nats(combiner, kept).item()
    after = fit_combiner(combiner, held_out, learning_rate=0.5)
    assert after <= before + 1e-6
    assert combined_nats(combiner, kept).item() == pytest.approx(after, abs=1e-5)


@pytest.mark.parametrize(
    "make", [Weighted, Entropy, Stacked, lambda: Stacked(forgetting=0.9), Routed], ids=lambda make: make().word
)
def test_two_outcomes_stand_for_the_whole_vocabulary(make):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, (4, 6), generator=generator)
    labels = tokens.roll(-1, dims=1)
    labels[1, 3:] = NOT_SCORED
    held_out = HeldOut(torch.randn(3, 4, 6, 7, generator=generator), tokens, labels)
    combiner = make()
    combiner.attach(3, 7)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in combiner.parameters():
            torch.nn.init.normal_(parameter)
    torch.testing.assert_close(
        combined_nats(combiner, held_out.reduced(combiner)), combined_nats(combiner, held_out), atol=1e-5, rtol=1e-5
    )


def test_members_read_held_out_text_once():
    members = [tiny_causal_lm(seed=seed) for seed in (0, 1)]
    tokens = torch.arange(24).view(3, 8)
    labels = tokens.roll(-1, dims=1)
    labels[2, 4:] = NOT_SCORED
    blocks = EvaluationBlocks(tokens, labels, torch.zeros_like(tokens), torch.tensor([30]))
    held_out = collect_held_out(members, {"a": blocks, "b": blocks}, batch_size=2)
    assert held_out["a"].member_logits.shape[:3] == (2, 3, 8)
    joined = join_held_out(list(held_out.values()))
    assert len(joined) == 6
    assert joined.target_log_probabilities.shape == (2 * 20, 2)
    expected = members[1](tokens[:1]).logits.log_softmax(-1)[0, 0, labels[0, 0]]
    torch.testing.assert_close(joined.target_log_probabilities[0, 1], expected)


def test_domains_count_the_same_however_long_they_are():
    # The first member is right about 1 answer, the second about 3; by domains they are level.
    log_probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]]).log()
    sure, other = log_probabilities[:1].T.unsqueeze(2), log_probabilities[1:].T.unsqueeze(2)

    def part(columns):
        # (member, row, position, vocab): the right answer is token 0, whose log-probability is given
        wrong = (1 - columns.exp()).log()
        labels = torch.zeros(columns.shape[1:], dtype=torch.long)
        return HeldOut(torch.stack([columns, wrong], dim=-1), labels, labels)

    joined = join_held_out([part(sure), part(other)])
    torch.testing.assert_close(joined.target_weights.sum() / 2, joined.target_weights[:1].sum())
    targets = joined.target_log_probabilities, joined.target_weights
    torch.testing.assert_close(fit_weights(*targets), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(select_greedily(*targets, num_rounds=10), torch.tensor([0.5, 0.5]))
    assert fit_weights(targets[0])[1] > 0.7


def test_no_more_text_is_held_than_fits():
    tokens = torch.zeros(10, 8, dtype=torch.long)
    blocks = EvaluationBlocks(tokens, tokens, tokens, torch.tensor([30]))
    member = tiny_causal_lm()
    held_out = collect_held_out([member], {"a": blocks}, max_values=3 * 8 * member.config.vocab_size)
    assert len(held_out["a"]) == 3


def test_bad_input_is_refused():
    none = torch.zeros(0, 2)
    nothing = re.escape("Weights are fitted on held-out rows, and there are none. Set some aside.")
    with pytest.raises(ValueError, match=f"^{nothing}$"):
        fit_weights(none)
    greedy = re.escape(
        "Greedy selection needs held-out rows and num_rounds of 1 or more, got 0 rows and num_rounds=50."
    )
    with pytest.raises(ValueError, match=f"^{greedy}$"):
        select_greedily(none)
    few = re.escape("A stacker is fitted on held-out rows, and there are 1; it needs 2 or more. Set more aside.")
    with pytest.raises(ValueError, match=f"^{few}$"):
        fit_combiner(Weighted(), draw_held_out(num_rows=1))
    nothing_to_fit = re.escape("Average has no parameters to fit; use it as it is.")
    with pytest.raises(ValueError, match=f"^{nothing_to_fit}$"):
        fit_combiner(Average(), draw_held_out())
    empty = EvaluationBlocks(*[torch.full((1, 8), NOT_SCORED)] * 3, torch.tensor([0]))
    no_text = re.escape("Domain 'a' has no text on which a stacker could be fitted. Raise data.validation_fraction.")
    with pytest.raises(ValueError, match=f"^{no_text}$"):
        collect_held_out([tiny_causal_lm()], {"a": empty})
