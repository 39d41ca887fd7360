from collections import Counter

import numpy as np
import pytest
import torch

from moesaic.combiners import (
    Average,
    Clustered,
    Hard,
    Posterior,
    Routed,
    Selective,
    Sigmoid,
    SparsePosterior,
    Tempered,
    TopK,
    TopP,
    class_confidence,
)
from moesaic.combiners.selective import token_confidence
from moesaic.mixture import Mixture


@pytest.fixture(scope="module")
def texts():
    """Three texts of twelve tokens."""
    return torch.randint(1, 300, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tokens_read(members):
    """How many tokens of a text each member has read, over all its calls."""
    counts = Counter()
    hooks = [
        member.network.register_forward_pre_hook(
            lambda _, arguments, options, name=member.name: counts.update({name: options["input_ids"].shape[1]}),
            with_kwargs=True,
        )
        for member in members
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def middle(members, texts, main=0):
    """A threshold below which the main member's confidence is at half of the positions."""
    confidence = members[main].network(input_ids=texts).logits.softmax(-1).amax(-1)
    return float(confidence.flatten().sort().values[confidence.numel() // 2 - 1 :][:2].mean())


def read_in_steps(mixture, texts, num_first):
    """Outputs from position ``num_first - 1`` on, as generation reads them: first a prompt, then token by token."""
    output = mixture(texts[:, :num_first], use_cache=True, logits_to_keep=1)
    yield output
    for position in range(num_first, texts.shape[1]):
        output = mixture(
            texts[:, position : position + 1],
            past_key_values=output.past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
        yield output


@pytest.mark.parametrize("measure", ["probability", "margin", "entropy"])
def test_confidence_is_that_of_the_cascade_of_classifiers(measure):
    probabilities = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1)).double().softmax(-1)
    expected = class_confidence(probabilities.numpy(), measure)
    np.testing.assert_allclose(token_confidence(probabilities.log(), measure).numpy(), expected, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("main", [0, 2])
def test_the_main_member_answers_where_it_is_sure_and_all_are_combined_elsewhere(members, texts, main):
    threshold = middle(members, texts, main)
    output = Mixture(members, Selective(Average(), threshold, main=main)).eval()(texts)
    alone = members[main].network(texts).logits.log_softmax(-1)
    average = Mixture(members, Average()).eval()(texts).logits
    is_sure = alone.exp().amax(-1) >= threshold
    assert is_sure.float().mean() == 0.5
    torch.testing.assert_close(output.logits, torch.where(is_sure.unsqueeze(-1), alone, average))
    assert torch.equal(output.routing.num_used, torch.where(is_sure, 1, 3))


@torch.no_grad()
@pytest.mark.parametrize("make", [lambda: Routed(seed=3), lambda: Tempered(Routed(seed=3))])
def test_the_main_member_may_be_the_one_that_a_router_ranks_first(members, texts, make):
    output = Mixture(members, Selective(make(), float("-inf"), main=None)).eval()(texts)
    first = Mixture(members, make()).eval()(texts).routing.weights.argmax(-1)
    assert len(first.unique()) > 1
    assert torch.equal(output.routing.weights.argmax(-1), first)
    assert (output.routing.num_used == 1).all()


@torch.no_grad()
def test_members_run_where_they_are_wanted_and_read_then_what_they_have_missed(members, texts, tokens_read):
    text = texts[:1]
    mixture = Mixture(members, Selective(Average(), middle(members, text))).eval()
    expected = mixture(text)
    is_combined = (expected.routing.num_used[0] == 3).tolist()
    assert any(is_combined[4:-1]) and not all(is_combined[3:])
    tokens_read.clear()
    num_missed, main, *others = 0, *(member.name for member in members)
    for position, output in enumerate(read_in_steps(mixture, text, num_first=4), start=3):
        num_new = 4 if position == 3 else 1
        num_missed += num_new
        num_caught_up = num_missed if is_combined[position] else 0
        num_missed -= num_caught_up
        assert tokens_read == Counter({main: num_new} | dict.fromkeys(others if num_caught_up else [], num_caught_up))
        torch.testing.assert_close(output.logits[:, -1], expected.logits[:, position])
        torch.testing.assert_close(output.routing.weights[:, -1], expected.routing.weights[:, position])
        assert output.past_key_values.get_seq_length() == position + 1
        tokens_read.clear()


@torch.no_grad()
def test_a_main_member_that_is_always_sure_is_the_only_one_that_runs(members, texts, tokens_read):
    mixture = Mixture(members, Selective(Average(), float("-inf"), main=1)).eval()
    written = mixture.generate(texts, attention_mask=torch.ones_like(texts), max_new_tokens=6, pad_token_id=0)
    assert set(tokens_read) == {"news"}
    assert torch.equal(written, members[1].network.generate(texts, max_new_tokens=6, pad_token_id=0))


@torch.no_grad()
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda threshold: Selective(Average(), threshold),
        lambda threshold: Selective(Routed(seed=3), threshold, main=None),
        lambda threshold: Selective(Routed(seed=3, top_k=2), threshold, main=None),
        lambda threshold: Routed(seed=3, choice=Hard()),
    ],
    ids=["average", "router's first", "top-2 of the router's", "hard"],
)
def test_generation_of_a_padded_batch_with_a_cache_equals_generation_without(members, texts, make, num_beams):
    mixture = Mixture(members, make(middle(members, texts))).eval()
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, :1], mask[2, :4] = 0, 0
    prompts = texts[:, :7].where(mask.bool(), 0)
    options = {"attention_mask": mask, "max_new_tokens": 8, "num_beams": num_beams, "do_sample": False}
    with_cache = mixture.generate(prompts, pad_token_id=0, **options)
    assert torch.equal(with_cache, mixture.generate(prompts, pad_token_id=0, use_cache=False, **options))


@torch.no_grad()
@pytest.mark.parametrize(("num_texts", "chosen"), [(3, [2, 0, 2]), (1, [0, 0])])
def test_rows_that_are_left_out_or_doubled_take_what_is_unread_with_them(members, texts, num_texts, chosen):
    mixture = Mixture(members, Selective(Average(), float("-inf"))).eval()
    cache = mixture(texts[:num_texts, :8], use_cache=True).past_key_values
    chosen = torch.tensor(chosen)
    cache.batch_select_indices(chosen)
    mixture.combiner.threshold = float("inf")  # from here on, all are wanted
    output = mixture(texts[chosen, 8:9], past_key_values=cache, use_cache=True)
    torch.testing.assert_close(output.logits[:, 0], mixture(texts).logits[chosen, 8])


@torch.no_grad()
def test_a_mixture_that_is_a_member_catches_up_like_any_other(members, texts):
    inner = Mixture(members[1:], Selective(Average(), middle(members, texts, 1)), name="inner")
    mixture = Mixture([members[0], inner], Selective(Average(), middle(members, texts))).eval()
    expected = mixture(texts[:1])
    for position, output in enumerate(read_in_steps(mixture, texts[:1], num_first=4), start=3):
        torch.testing.assert_close(output.logits[:, -1], expected.logits[:, position])


@torch.no_grad()
@pytest.mark.parametrize("choice", [Hard(), TopK(2), TopP(0.5), Sigmoid(2)])
def test_members_that_a_router_does_not_choose_are_not_run(members, texts, tokens_read, choice):
    mixture = Mixture(members, Routed(seed=3, choice=choice)).eval()
    expected = mixture(texts[:1])
    chosen = expected.routing.weights[0] > 0
    assert len(chosen.unique(dim=0)) > 1
    tokens_read.clear()
    for position, output in enumerate(read_in_steps(mixture, texts[:1], num_first=4), start=3):
        assert set(tokens_read) == {
            member.name for member, is_in in zip(members, chosen[position], strict=True) if is_in
        }
        torch.testing.assert_close(output.logits[:, -1], expected.logits[:, position])
        tokens_read.clear()


@torch.no_grad()
def test_clusters_that_choose_leave_members_out_too(members, texts, tokens_read):
    combiner = Clustered(top_k=1, num_features=8)
    mixture = Mixture(members, combiner).eval()
    combiner.token_places.copy_(torch.randn(300, 8, generator=torch.Generator().manual_seed(1)))
    combiner.centers.copy_(torch.eye(3, 8))
    mixture.generate(texts[:1], max_new_tokens=3, pad_token_id=0)
    assert sum(tokens_read.values()) < 3 * (12 + 2)


def test_while_it_trains_a_router_hears_of_all_members(members, texts, tokens_read):
    mixture = Mixture(members, Routed(choice=Hard())).train()
    mixture(texts, use_cache=True)
    assert set(tokens_read) == {member.name for member in members}
    mixture.eval()


def test_the_main_member_keeps_its_part_when_others_leave(members):
    mixture = Mixture(members, Selective(Average(), 0.5, main=2)).remove_member("general")
    assert mixture.combiner.main == 1
    with pytest.raises(ValueError) as error:
        mixture.remove_member("law")
    assert str(error.value) == (
        "The main member (position 1) cannot be removed: it answers wherever it is sure. Make a mixture whose "
        "Selective names another."
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Selective(Posterior(), 0.5),
            "Selective cannot combine by 'posterior', which remembers what every member said of every token, so that "
            "none could be left out. Use one that does not, such as 'average', 'weighted', 'entropy', 'routed' or "
            "'clustered'.",
        ),
        (
            lambda: Selective(Tempered(SparsePosterior()), 0.5),
            "Selective cannot combine by 'tempered', which remembers what every member said of every token, so that "
            "none could be left out. Use one that does not, such as 'average', 'weighted', 'entropy', 'routed' or "
            "'clustered'.",
        ),
        (
            lambda: Selective(Average(), 0.5, main=None),
            "main=None takes the member that the combiner ranks first before any is run, which 'average' cannot tell. "
            "Give main the position of a member, or combine by 'routed' or 'clustered'.",
        ),
        (
            lambda: Selective(Average(), float("nan")),
            "threshold must be a number, got NaN, which is above and below nothing.",
        ),
        (
            lambda: Selective(Average(), 0.5, "certainty"),
            "measure must be one of probability, margin, entropy, got 'certainty'.",
        ),
        (
            lambda: Selective(Average(), 0.5, main=3).attach(3, 300),
            "main must be the position of a member, from 0 to 2, got 3.",
        ),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
