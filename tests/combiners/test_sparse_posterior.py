from collections import Counter

import pytest
import torch

from moesaic.combiners import Average, Posterior, SparsePosterior
from moesaic.mixture import Mixture


@pytest.fixture(scope="module")
def texts(members):
    """Three texts of twelve tokens, each written by another member, so that each keeps another one."""
    torch.manual_seed(0)
    start = torch.tensor([[5, 17]])
    written = [
        member.network.generate(start, max_new_tokens=10, min_new_tokens=10, do_sample=True, pad_token_id=0)
        for member in members
    ]
    return torch.cat(written)


@pytest.fixture
def rows_read(members):
    """How many rows each member has read, over all its calls."""
    counts = Counter()
    hooks = [
        member.network.register_forward_pre_hook(
            lambda _, arguments, options, name=member.name: counts.update({name: len(options["input_ids"])}),
            with_kwargs=True,
        )
        for member in members
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def restricted(members, texts, kept, after):
    """What the dense posterior says when, from a position on, other members have no weight."""
    dense = Mixture(members, Posterior()).eval()(texts).routing.weights.clone()
    dense[:, after - 1 :] *= kept.unsqueeze(1)
    weights = dense / dense.sum(-1, keepdim=True)
    probabilities = torch.stack([member.network(texts).logits.softmax(-1) for member in members], dim=2)
    return weights, (weights.unsqueeze(-1) * probabilities).sum(dim=2)


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 2])
def test_the_output_is_that_of_the_dense_posterior_restricted_to_the_kept_members(members, texts, keep):
    belief = Mixture(members, Posterior()).eval()(texts).routing.router_logits[:, 5]  # after six tokens
    kept = torch.zeros_like(belief).scatter(1, belief.topk(keep).indices, 1.0)
    weights, probabilities = restricted(members, texts, kept, after=6)
    output = Mixture(members, SparsePosterior(keep=keep, after=6)).eval()(texts)
    torch.testing.assert_close(output.routing.weights, weights)
    torch.testing.assert_close(output.logits.exp(), probabilities)
    assert len(kept.unique(dim=0)) > 1  # texts keep different members


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 2])
def test_members_that_a_text_does_not_keep_are_not_run_for_it(members, texts, rows_read, keep):
    mixture = Mixture(members, SparsePosterior(keep=keep, after=6)).eval()
    expected = mixture(texts)
    kept = expected.routing.weights[:, -1] > 0
    rows_read.clear()
    cache = mixture(texts[:, :8], use_cache=True).past_key_values
    assert rows_read == {member.name: 3 for member in members}
    for position in range(8, 12):
        rows_read.clear()
        output = mixture(texts[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        assert [rows_read[member.name] for member in members] == kept.sum(0).tolist()
        torch.testing.assert_close(output.logits[:, 0], expected.logits[:, position])
        torch.testing.assert_close(output.routing.weights[:, 0], expected.routing.weights[:, position])
    assert cache.get_seq_length() == 12


@torch.no_grad()
def test_a_text_that_keeps_one_member_calls_no_other_after_the_prompt(members, texts, rows_read):
    mixture = Mixture(members, SparsePosterior(after=6)).eval()
    prompt = texts[1:2, :8]
    (kept,) = (mixture(prompt).routing.weights[0, -1] > 0).nonzero().flatten().tolist()
    rows_read.clear()
    mixture.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=9, min_new_tokens=9, pad_token_id=0)
    # The prompt by all; eight more tokens are read by the one that is kept.
    assert rows_read == {member.name: 9 if index == kept else 1 for index, member in enumerate(members)}


@torch.no_grad()
def test_a_prompt_shorter_than_what_decides_is_read_by_all_until_then(members, texts, rows_read):
    mixture = Mixture(members, SparsePosterior(after=6)).eval()
    mixture.generate(texts[:1, :4], attention_mask=torch.ones(1, 4), max_new_tokens=6, min_new_tokens=6, pad_token_id=0)
    # Read are 4 + 5 tokens: the prompt in one call, tokens 5 and 6 by all, tokens 7 to 9 by one.
    assert sorted(rows_read.values()) == [3, 3, 6]


@torch.no_grad()
@pytest.mark.parametrize("num_beams", [1, 4])
def test_generation_of_a_padded_batch_with_a_cache_equals_generation_without(members, texts, num_beams):
    mixture = Mixture(members, SparsePosterior(after=6)).eval()
    # Rows begin at different places, so that they decide at different positions, the last only while generating.
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, :1], mask[2, :4] = 0, 0
    prompts = texts[:, :7].where(mask.bool(), 0)
    options = {"attention_mask": mask, "max_new_tokens": 8, "num_beams": num_beams, "do_sample": False}
    with_cache = mixture.generate(prompts, pad_token_id=0, **options)
    assert torch.equal(with_cache, mixture.generate(prompts, pad_token_id=0, use_cache=False, **options))


@torch.no_grad()
def test_rows_that_are_left_out_or_doubled_keep_their_members(members, texts):
    mixture = Mixture(members, SparsePosterior(after=6)).eval()
    cache = mixture(texts[:, :8], use_cache=True).past_key_values
    chosen = torch.tensor([2, 0, 2])
    cache.batch_select_indices(chosen)
    for position in (8, 9):
        output = mixture(texts[chosen, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        torch.testing.assert_close(output.logits[:, 0], mixture(texts).logits[chosen, position])


@torch.no_grad()
def test_a_mixture_in_a_sparse_posterior_is_let_go_like_any_member(members, texts):
    inner = Mixture(members[:2], Average(), name="inner")
    mixture = Mixture([inner, members[2]], SparsePosterior(after=6)).eval()
    cache = mixture(texts[:, :8], use_cache=True).past_key_values
    output = mixture(texts[:, 8:9], past_key_values=cache, use_cache=True)
    torch.testing.assert_close(output.logits[:, 0], mixture(texts).logits[:, 8])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SparsePosterior(keep=0), "keep must be 1 or more, got 0."),
        (lambda: SparsePosterior(keep=3).attach(2, 300), "keep must be from 1 to num_members (2), got 3."),
        (
            lambda: SparsePosterior(after=1),
            "after must be 2 or more, as no member predicts the first token, got 1.",
        ),
        (lambda: SparsePosterior(forgetting=2), "forgetting must be from 0 to 1, got 2."),
    ],
)
def test_bad_arguments_are_refused(make, sentence):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == sentence
