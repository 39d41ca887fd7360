import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from moesaic.combiners import Average, BySource, Choice, Hard, Posterior, TopK, TopP
from moesaic.errors import IncompatibleMembersError, MemberError
from moesaic.members import CausalLM, Seq2SeqLM, load_member
from moesaic.mixture import Mixture
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import tiny_causal_lm, tiny_seq2seq_lm

SOURCE = torch.tensor([[5, 17, 8, 1], [4, 9, 1, 0], [61, 30, 22, 1]])
MASK = (SOURCE != 0).long()
TARGET = torch.tensor([[7, 11, 1], [5, 1, -100], [9, 9, 1]])
COMBINERS = {
    "average": Average,
    "posterior": Posterior,
    "by source, soft": BySource,
    "by source, one member": lambda: BySource(choice=Hard(), seed=3),
    "by source, a router a task": lambda: BySource(choice=Hard(), seed=3, task_tokens=(5, 17)),
    "by source, two members": lambda: BySource(choice=TopK(2)),
}


def members(num_members=3):
    return [Seq2SeqLM(f"pair-{seed}", tiny_seq2seq_lm(seed=seed)) for seed in range(num_members)]


def make(combiner):
    return Seq2SeqMixture(members(), combiner).eval()


def generate(network, source=SOURCE, **arguments):
    mask = (source != 0).long()
    return network.generate(source, attention_mask=mask, max_new_tokens=6, **{"num_beams": 1} | arguments)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_a_cache_equals_generation_without(combiner, num_beams):
    mixture = make(COMBINERS[combiner]())
    cached = generate(mixture, num_beams=num_beams)
    assert torch.equal(cached, generate(mixture, num_beams=num_beams, use_cache=False))
    assert cached.shape[1] == 7


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_mixture_of_one_member_is_that_member(num_beams):
    [only] = members(1)
    mixture = Seq2SeqMixture([only], Average()).eval()
    assert torch.equal(generate(mixture, num_beams=num_beams), generate(only.network, num_beams=num_beams))
    expected = only.network(input_ids=SOURCE, attention_mask=MASK, labels=TARGET)
    output = mixture(input_ids=SOURCE, attention_mask=MASK, labels=TARGET)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits, expected.logits.log_softmax(-1))


def test_each_source_is_read_and_answered_by_the_member_that_its_router_chose(monkeypatch):
    mixture = make(BySource(choice=Hard(), seed=3))
    chosen = mixture.combiner.route_source(SOURCE, MASK.bool()).weights.argmax(-1)
    assert len(chosen.unique()) > 1  # else nothing would be told apart below
    read = []
    for number, network in enumerate(mixture.members):
        encoder = network.get_encoder()
        monkeypatch.setattr(
            encoder,
            "forward",
            lambda *args, number=number, forward=encoder.forward, **kwargs: (
                read.append((number, len(kwargs["input_ids"]))) or forward(*args, **kwargs)
            ),
        )
    answers = generate(mixture, num_beams=3)
    assert sorted(read) == [(number, int((chosen == number).sum())) for number in chosen.unique().tolist()]
    for row, number in enumerate(chosen.tolist()):
        alone = generate(mixture.members[number], SOURCE[row : row + 1], num_beams=3)[0]
        assert torch.equal(answers[row, : len(alone)], alone)


def test_padding_a_source_changes_nothing():
    mixture = make(BySource())
    padded = torch.cat([SOURCE, torch.zeros(3, 2, dtype=torch.long)], dim=1)
    output = mixture(input_ids=SOURCE, attention_mask=MASK, labels=TARGET)
    torch.testing.assert_close(
        mixture(input_ids=padded, attention_mask=(padded != 0).long(), labels=TARGET).logits, output.logits
    )


@pytest.mark.parametrize("combiner", COMBINERS)
def test_a_saved_mixture_is_loaded_with_the_same_bits(combiner, tmp_path):
    mixture = make(COMBINERS[combiner]())
    mixture.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.member_names == mixture.member_names
    arguments = {"input_ids": SOURCE, "attention_mask": MASK, "labels": TARGET}
    assert torch.equal(loaded(**arguments).logits, mixture(**arguments).logits)
    assert torch.equal(generate(loaded, num_beams=2), generate(mixture, num_beams=2))
    assert isinstance(load_member(tmp_path), Seq2SeqLM)


@pytest.mark.parametrize("choice", [Hard(), TopK(2), TopP(0.5)])
def test_the_likelihood_of_the_target_teaches_the_router(choice: Choice):
    mixture = make(BySource(choice=choice)).train()
    mixture(input_ids=SOURCE, attention_mask=MASK, labels=TARGET).loss.backward()
    assert mixture.combiner.router.weight.grad.abs().sum() > 0
    assert mixture.combiner.embedding.weight.grad.abs().sum() > 0


def test_members_come_and_go():
    mixture = make(BySource())
    extended = mixture.add_member(Seq2SeqLM("newcomer", tiny_seq2seq_lm(seed=9))).eval()
    assert extended.member_names[-1] == "newcomer"
    arguments = {"input_ids": SOURCE, "attention_mask": MASK, "labels": TARGET}
    assert (extended(**arguments).routing.weights[..., -1] > 0).all()
    restored = extended.remove_member("newcomer").eval()
    assert isinstance(restored, Seq2SeqMixture)
    torch.testing.assert_close(restored(**arguments).logits, mixture(**arguments).logits)


def test_a_source_is_needed():
    mixture = make(Average())
    with pytest.raises(ValueError, match=r"^There is no source: give input_ids\.$"):
        mixture(decoder_input_ids=TARGET)
    with pytest.raises(ValueError, match=r"^There is no target: give decoder_input_ids, or labels\.$"):
        mixture(input_ids=SOURCE)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_causal_members_are_chosen_by_the_prompt(num_beams):
    members = [CausalLM(name, tiny_causal_lm(seed=seed)) for seed, name in enumerate("abc")]
    mixture = Mixture(members, BySource(choice=Hard(), seed=1)).eval()
    prompts = torch.tensor([[5, 17, 8, 4], [0, 9, 7, 61], [30, 22, 12, 3]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    chosen = mixture.combiner.route_source(prompts, mask.bool()).weights.argmax(-1)
    assert len(chosen.unique()) > 1
    arguments = {"max_new_tokens": 5, "num_beams": num_beams, "do_sample": False, "pad_token_id": 0}
    answers = mixture.generate(prompts, attention_mask=mask, **arguments)
    for row, number in enumerate(chosen.tolist()):
        alone = members[number].network.generate(
            prompts[row : row + 1], attention_mask=mask[row : row + 1], **arguments
        )[0]
        assert torch.equal(answers[row, : len(alone)], alone)


def test_routing_by_source_is_refused_where_there_is_none():
    causal = Mixture([CausalLM("a", tiny_causal_lm()), CausalLM("b", tiny_causal_lm(seed=1))], BySource())
    message = (
        r"^'by_source' weighs members by a source text, which a causal model has only while it generates: the prompt\. "
        r"To score text, use 'routed', which reads the text so far; or combine encoder-decoder models "
        r"\(moesaic\.Seq2SeqMixture\)\.$"
    )
    with pytest.raises(ValueError, match=message):
        causal(SOURCE)


def test_members_of_other_vocabularies_are_refused():
    other = Seq2SeqLM("other", tiny_seq2seq_lm(vocab_size=290))
    with pytest.raises(IncompatibleMembersError, match="pair-0 has 300 tokens, other has 290 tokens"):
        Seq2SeqMixture([*members(1), other], Average())


def test_a_member_that_gives_no_number_is_named():
    mixture = make(Average())
    mixture.members[1].final_logits_bias.fill_(float("nan"))
    with pytest.raises(MemberError, match="pair-1"):
        mixture(input_ids=SOURCE, attention_mask=MASK, labels=TARGET)
