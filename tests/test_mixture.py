import pytest
import torch
from transformers import AutoModelForCausalLM

from moesaic.combiners import Average, Posterior, Routed, SparsePosterior
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import CausalLM, load_network
from moesaic.mixture import Mixture
from moesaic.testing import tiny_causal_lm, tiny_tokenizer

TOKENS = torch.tensor([[5, 17, 8, 42], [4, 9, 61, 30]])
COMBINERS = {
    "average": Average,
    "routed": lambda: Routed(top_k=2),
    "posterior": Posterior,
    "sparse posterior": lambda: SparsePosterior(after=6),
}


def generate(mixture, **arguments):
    arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0} | arguments
    return mixture.generate(TOKENS, attention_mask=torch.ones_like(TOKENS), **arguments)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_a_cache_equals_generation_without(members, combiner, num_beams):
    mixture = Mixture(members, COMBINERS[combiner]()).eval()
    cached = generate(mixture, num_beams=num_beams)
    assert torch.equal(cached, generate(mixture, num_beams=num_beams, use_cache=False))
    assert cached.shape[1] > TOKENS.shape[1]


def test_greedy_generation_takes_the_likeliest_token(members):
    mixture = Mixture(members, Average()).eval()
    tokens = generate(mixture)[:1]
    predicted = mixture(tokens).logits.argmax(-1)
    assert torch.equal(predicted[0, 3:-1], tokens[0, 4:])


def test_a_mixture_is_a_member(members):
    inner = Mixture(members[:2], Average(), name="inner")
    outer = Mixture([inner, members[2]], Average()).eval()
    assert outer.member_names == ["inner", "law"]
    # The inner members weigh 1/2 * 1/2 each, the outer one 1/2.
    expected = sum(
        weight * member.network(TOKENS).logits.softmax(-1)
        for weight, member in zip((0.25, 0.25, 0.5), members, strict=True)
    )
    torch.testing.assert_close(outer(TOKENS).logits.softmax(-1), expected)
    assert torch.equal(generate(outer), generate(outer, use_cache=False))


def test_a_nested_mixture_is_saved_and_loaded(members, tmp_path):
    outer = Mixture([Mixture(members[:2], Average(), name="inner"), members[2]], Posterior()).eval()
    outer.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(TOKENS).logits, outer(TOKENS).logits)


def test_the_loss_is_that_of_transformers(members):
    # One member: the loss is the member's own.
    only = Mixture(members[:1], Average())
    expected = members[0].network(TOKENS, labels=TOKENS).loss
    torch.testing.assert_close(only(TOKENS, labels=TOKENS).loss, expected)


def test_a_mixture_prints_its_members_and_combiner(members):
    assert repr(Mixture(members, Average())) == "Mixture([general, news, law], Average(space='probability'))"


def test_no_member_is_refused():
    with pytest.raises(ValueError, match=r"^A mixture needs at least one member, got none\.$"):
        Mixture([], Average())


def test_no_combiner_is_refused(members):
    with pytest.raises(ValueError, match=r"^A mixture needs a combiner, for instance moesaic.combiners.Average\(\).$"):
        Mixture(members)


def test_two_members_with_one_name_are_refused(members):
    with pytest.raises(ValueError, match=r"^Two members are called 'news'; give each its own name\.$"):
        Mixture([members[1], members[1]], Average())


def test_vocabularies_of_different_sizes_are_refused(members):
    with pytest.raises(IncompatibleMembersError) as error:
        Mixture([members[0], CausalLM("tiny", tiny_causal_lm(vocab_size=280))], Average())
    assert str(error.value) == (
        "Members that meet at logits need one vocabulary: general has 300 tokens, tiny has 280 tokens. "
        "Use members that share a tokenizer, or combine them at text: "
        "moesaic.TextMixture(members, moesaic.combiners.Rerank())."
    )


def test_different_vocabularies_of_one_size_are_refused(members):
    other = CausalLM("other", tiny_causal_lm(), tiny_tokenizer(["Ein ganz anderer Text, und noch ein Text"]))
    with pytest.raises(IncompatibleMembersError) as error:
        Mixture([members[0], other], Average())
    assert str(error.value) == (
        "Members that meet at logits need one vocabulary: general has 300 tokens, other has 300 tokens, but not the "
        "same ones. Use members that share a tokenizer, or combine them at text: "
        "moesaic.TextMixture(members, moesaic.combiners.Rerank())."
    )


def test_members_that_tie_their_embeddings_are_saved_and_loaded(tmp_path):
    tied = [CausalLM(str(seed), tiny_causal_lm(seed=seed, tie_word_embeddings=True)) for seed in range(2)]
    inner = Mixture(tied, Average(), name="inner")
    mixture = Mixture([inner, CausalLM("free", tiny_causal_lm(seed=2))], Average()).eval()
    mixture.save_pretrained(tmp_path)
    loaded = load_network(tmp_path)
    assert torch.equal(loaded(TOKENS).logits, mixture(TOKENS).logits)
    head, embedding = (loaded.members[0].members[1].get_submodule(name) for name in ("lm_head", "model.embed_tokens"))
    assert head.weight is embedding.weight


@pytest.mark.parametrize("combiner", [Average(), Posterior()], ids=lambda combiner: combiner.word)
def test_the_last_positions_alone_have_the_scores_that_they_have_among_all(combiner):
    mixture = Mixture([CausalLM(name, tiny_causal_lm(seed=seed)) for seed, name in enumerate("ab")], combiner)
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    kept = mixture(tokens, logits_to_keep=2).logits
    assert kept.shape == (1, 2, 300)
    torch.testing.assert_close(kept, mixture(tokens).logits[:, -2:])


def damaged_member(name="damaged", token=5):
    """A member that knows one token only as NaN: an entry of its embedding is damaged."""
    network = tiny_causal_lm(seed=3)
    with torch.no_grad():
        network.get_input_embeddings().weight[token, 0] = float("nan")
    return CausalLM(name, network)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_member_that_gives_nan_is_named(members, combiner):
    mixture = Mixture([members[0], damaged_member(), members[1]], COMBINERS[combiner]()).eval()
    # Token 5 is the first of four in the first row, and every position reads it.
    with pytest.raises(MemberError) as error:
        mixture(TOKENS)
    assert str(error.value) == (
        "These members give NaN: 'damaged' for 4 of 8 positions. Their weights are damaged, or overflow in their type: "
        "load them again, in float32 if they were not, or leave them out."
    )


def test_every_member_that_gives_nan_is_named():
    mixture = Mixture([damaged_member("first"), damaged_member("second", token=4)], Average()).eval()
    with pytest.raises(MemberError, match=r"NaN: 'first' for 4 of 8 positions, 'second' for 4 of 8 positions\. Their"):
        mixture(TOKENS)


def test_nan_is_left_to_the_loss_while_training(members):
    mixture = Mixture([members[0], damaged_member()], Average()).train()
    assert mixture(TOKENS, labels=TOKENS).loss.isnan()
