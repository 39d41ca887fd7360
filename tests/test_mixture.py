import pytest
import torch
from transformers import AutoModelForCausalLM

from moesaic.combiners import Average, Posterior, Routed, SparsePosterior, Weighted
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


def test_an_added_member_gets_the_mean_weight_and_the_others_keep_theirs(members):
    mixture = Mixture(members[:2], Weighted([0.75, 0.25]))
    larger = mixture.add_member(members[2])
    assert larger.member_names == ["general", "news", "law"]
    # The mean weight is 1/2 of 1; rescaled, (3/4, 1/4, 1/2) / (3/2).
    torch.testing.assert_close(larger(TOKENS).routing.weights[0, 0], torch.tensor([1 / 2, 1 / 6, 1 / 3]))
    assert larger.members[0] is mixture.members[0]
    assert mixture.member_names == ["general", "news"]


def test_a_replaced_member_leaves_its_weight_to_its_successor(members):
    mixture = Mixture(members[:2], Weighted([0.75, 0.25])).replace_member("news", members[2])
    assert mixture.member_names == ["general", "law"]
    expected = Mixture([members[0], members[2]], Weighted([0.75, 0.25]))(TOKENS)
    torch.testing.assert_close(mixture(TOKENS).logits, expected.logits)


def test_a_removed_member_leaves_its_weight_to_the_others(members):
    mixture = Mixture(members, Weighted([0.5, 0.3, 0.2])).remove_member("news")
    assert mixture.member_names == ["general", "law"]
    # (0.5, 0.2) / 0.7
    torch.testing.assert_close(mixture(TOKENS).routing.weights[0, 0], torch.tensor([5 / 7, 2 / 7]))


@pytest.mark.parametrize(("removed", "top_k"), [(["law"], 2), (["law", "news"], None)])
def test_top_k_follows_the_members_that_are_left(members, removed, top_k):
    mixture = Mixture(members, Routed(top_k=3))
    for name in removed:
        left = len(mixture.member_names) - 1
        sentence = rf"^top_k is lowered from {left + 1} to {left}, the number of members that are left\.$"
        with pytest.warns(UserWarning, match=sentence):
            mixture = mixture.remove_member(name)
    assert getattr(mixture.combiner.choice, "top_k", None) == top_k
    assert torch.allclose(mixture(TOKENS).routing.weights.sum(-1), torch.ones(TOKENS.shape))


def test_a_changed_mixture_is_saved_and_generates(members, tmp_path):
    mixture = Mixture(members[:2], Routed(), name="ours").add_member(members[2]).remove_member("general").eval()
    mixture.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.member_names == ["news", "law"] and mixture.name == "ours"
    assert torch.equal(loaded(TOKENS).logits, mixture(TOKENS).logits)
    assert torch.equal(generate(mixture), generate(mixture, use_cache=False))


def refusal(kind, change):
    with pytest.raises(kind) as error:
        change()
    return str(error.value)


def test_changes_that_cannot_be_made_are_refused(members):
    mixture = Mixture(members[:2], Average())
    assert refusal(ValueError, lambda: mixture.add_member(members[1])) == (
        "Two members are called 'news'; give each its own name."
    )
    assert refusal(ValueError, lambda: mixture.replace_member("general", members[1])) == (
        "Two members are called 'news'; give each its own name."
    )
    for change in (lambda: mixture.remove_member("law"), lambda: mixture.replace_member("law", members[2])):
        assert refusal(ValueError, change) == "No member is called 'law'; there are general, news."
    assert refusal(ValueError, lambda: mixture.remove_member("news").remove_member("general")) == (
        "'general' is the only member, and a mixture needs one. Add another first, or replace it."
    )


def test_a_newcomer_of_another_vocabulary_is_refused(members):
    other = CausalLM("other", tiny_causal_lm(vocab_size=310))
    assert refusal(IncompatibleMembersError, lambda: Mixture(members[:1], Average()).add_member(other)) == (
        "Members that meet at logits need one vocabulary: general has 300 tokens, other has 310 tokens. Use members "
        "that share a tokenizer, or combine them at text: moesaic.TextMixture(members, moesaic.combiners.Rerank())."
    )
