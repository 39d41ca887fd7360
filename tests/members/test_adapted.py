import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
)

from moesaic.arena import active_parameters, total_parameters
from moesaic.combiners import Average, Posterior, Routed, SparsePosterior, Weighted
from moesaic.members import CausalLM, Seq2SeqLM, adapter_members, add_adapter, load_member, merge_adapter
from moesaic.mixture import Mixture
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import tiny_causal_lm, tiny_tokenizer
from moesaic.training import train

TOKENS = torch.tensor([[5, 17, 8, 42], [4, 9, 61, 30]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
NAMES = ("general", "news", "law")
COMBINERS = {
    "average": Average,
    "weighted": Weighted,
    "routed": lambda: Routed(top_k=2),
    "posterior": Posterior,
    "sparse posterior": lambda: SparsePosterior(after=5),
}


@pytest.fixture
def backbone():
    network = tiny_causal_lm()
    for seed, name in enumerate(NAMES):
        add_adapter(network, name, rank=2, seed=seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place, tensor in network.named_parameters():
            if ".lora_B." in place:
                tensor.normal_(std=0.3, generator=generator)
    return CausalLM("tiny", network, tiny_tokenizer())


def merged_members(backbone):
    """The same members, each with weights of its own."""
    return [CausalLM(name, merge_adapter(backbone.network, name), backbone.tokenizer) for name in NAMES]


def generate(mixture, **arguments):
    arguments = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0} | arguments
    return mixture.generate(TOKENS, attention_mask=MASK, **arguments)


@pytest.mark.parametrize("combiner", COMBINERS)
@torch.no_grad()
def test_a_mixture_of_adapters_equals_the_mixture_of_merged_models(backbone, combiner):
    shared = Mixture(adapter_members(backbone), COMBINERS[combiner]()).eval()
    apart = Mixture(merged_members(backbone), COMBINERS[combiner]()).eval()
    for mask in (None, MASK):
        ours, theirs = shared(TOKENS, attention_mask=mask), apart(TOKENS, attention_mask=mask)
        kept = slice(None) if mask is None else mask.bool()
        torch.testing.assert_close(ours.logits[kept], theirs.logits[kept], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours.routing.weights[kept], theirs.routing.weights[kept], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_it_generates_with_a_cache_what_it_does_without_one(backbone, combiner, num_beams):
    shared = Mixture(adapter_members(backbone), COMBINERS[combiner]()).eval()
    cached = generate(shared, num_beams=num_beams)
    assert torch.equal(cached, generate(shared, num_beams=num_beams, use_cache=False))
    assert torch.equal(cached, generate(Mixture(merged_members(backbone), COMBINERS[combiner]()), num_beams=num_beams))


@torch.no_grad()
def test_one_call_of_the_backbone_runs_all_members(backbone):
    calls = []
    backbone.network.register_forward_pre_hook(lambda _, inputs, keywords: calls.append(keywords), with_kwargs=True)
    mixture = Mixture(adapter_members(backbone), Average()).eval()
    mixture(TOKENS)
    assert [len(call["input_ids"]) for call in calls] == [len(NAMES) * len(TOKENS)]


@torch.no_grad()
def test_members_that_no_text_depends_on_are_not_run(backbone):
    rows = []
    backbone.network.register_forward_pre_hook(
        lambda _, inputs, keywords: rows.append(len(keywords["input_ids"])), with_kwargs=True
    )
    generate(Mixture(adapter_members(backbone), SparsePosterior(after=5, keep=1)).eval(), max_new_tokens=5)
    # The prompt has four tokens: two calls read fewer than five, the next has read them.
    assert rows[0] == len(NAMES) * len(TOKENS) and rows[-1] == len(TOKENS)


@torch.no_grad()
def test_adapters_stand_beside_members_of_other_kinds(backbone):
    other = CausalLM("other", tiny_causal_lm(seed=7), backbone.tokenizer)
    general, news, law = adapter_members(backbone)
    shared = Mixture([general, other, Mixture([news, law], Average(), name="inner")], Posterior()).eval()
    one, two, three = merged_members(backbone)
    apart = Mixture([one, other, Mixture([two, three], Average(), name="inner")], Posterior()).eval()
    torch.testing.assert_close(shared(TOKENS).logits, apart(TOKENS).logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(generate(shared), generate(apart))


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_it_is_saved_with_the_backbone_once_and_loaded_as_it_was(tmp_path, tied):
    network = tiny_causal_lm(tie_word_embeddings=tied)
    network.tie_weights()
    for seed, name in enumerate(NAMES):
        add_adapter(network, name, rank=2, seed=seed)
        for place, tensor in network.named_parameters():
            if f".lora_B.{name}." in place:
                tensor.fill_(0.1 * (seed + 1))
    mixture = Mixture(adapter_members(CausalLM("tiny", network, tiny_tokenizer())), Posterior()).eval()
    mixture.save_pretrained(tmp_path)
    saved = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert saved == total_parameters(network)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert total_parameters(again) == saved
    assert torch.equal(again(TOKENS).logits, mixture(TOKENS).logits)
    assert torch.equal(generate(again), generate(mixture))


@torch.no_grad()
def test_a_member_that_leaves_is_not_saved(backbone, tmp_path):
    mixture = Mixture(adapter_members(backbone), Average()).eval()
    left = mixture.remove_member("general")
    left.save_pretrained(tmp_path)
    assert not any(".general." in name for name in load_file(tmp_path / "model.safetensors"))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(TOKENS).logits, left(TOKENS).logits)


@torch.no_grad()
def test_a_backbone_that_nested_mixtures_share_is_saved_once_and_shared_again(backbone, tmp_path):
    general, news, law = adapter_members(backbone)
    inner = Mixture([news, Mixture([law, general], Average(), name="innermost")], Posterior(), name="inner")
    nested = Mixture([general, inner], Average()).eval()
    nested.save_pretrained(tmp_path)
    saved = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert saved == total_parameters(backbone.network) == total_parameters(again)
    assert torch.equal(again(TOKENS).logits, nested(TOKENS).logits)
    assert torch.equal(generate(again), generate(nested))


def test_the_combiner_is_trained_through_the_shared_call(backbone):
    mixture = Mixture(adapter_members(backbone), Weighted())
    before = {name: tensor.clone() for name, tensor in mixture.named_parameters()}

    class Rhyme:
        def documents(self):
            yield "the cat sat on the mat " * 20

    train(mixture, Rhyme(), only="router", num_steps=5, batch_size=4, sequence_length=16, learning_rate=1e-2)
    changed = {name for name, tensor in mixture.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("combiner.") for name in changed)


def test_gradients_reach_the_adapters_as_they_reach_merged_weights(backbone):
    mixture = Mixture(adapter_members(backbone), Average())
    loss = mixture(TOKENS, labels=TOKENS).loss
    loss.backward()
    reached = {name for name, tensor in backbone.network.named_parameters() if tensor.grad is not None}
    assert all(name in reached for name, _ in backbone.network.named_parameters() if ".lora_" in name)


def test_only_the_adapter_that_reads_counts_as_active(backbone):
    mixture = Mixture(adapter_members(backbone), Average())
    merged = total_parameters(merge_adapter(backbone.network, "news"))
    adapters = total_parameters(backbone.network) - merged
    assert active_parameters(mixture.members[0]) == merged + adapters // 3
    assert total_parameters(mixture) == merged + adapters


def test_recomputed_layers_are_refused(backbone):
    (news,) = adapter_members(backbone, ["news"])
    for layer in backbone.network.model.layers:
        layer.gradient_checkpointing = True
    news.network.train()
    with pytest.raises(ValueError) as error:
        news.network(TOKENS)
    assert str(error.value) == (
        "A backbone whose adapters are chosen by row cannot recompute its layers. Turn that off by "
        "activation_checkpointing_disable(), and save memory by gradient_accumulation_steps."
    )


def adapted(network, member_class, target_modules):
    """Two adapters that do something on a network, as members that share it and as members of their own."""
    generator = torch.Generator().manual_seed(0)
    for name in ("news", "law"):
        add_adapter(network, name, rank=2, target_modules=target_modules)
    with torch.no_grad():
        for place, tensor in network.named_parameters():
            if ".lora_B." in place:
                tensor.normal_(std=0.3, generator=generator)
    shared = adapter_members(member_class("tiny", network.eval()))
    return shared, [member_class(member.name, member.network.merge()) for member in shared]


@torch.no_grad()
def test_encoder_decoder_members_share_a_backbone_too(tmp_path):
    sizes = {f"{part}_{size}": 2 for part in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32, "init_std": 0.2}
    torch.manual_seed(0)
    bart = BartForConditionalGeneration(BartConfig(vocab_size=100, d_model=32, forced_eos_token_id=None, **sizes))
    shared, apart = (Seq2SeqMixture(made, Average()).eval() for made in adapted(bart, Seq2SeqLM, None))
    target = {"decoder_input_ids": TOKENS[:, :2]}
    expected = apart(TOKENS, attention_mask=MASK, **target).logits
    torch.testing.assert_close(shared(TOKENS, attention_mask=MASK, **target).logits, expected, rtol=1e-3, atol=1e-3)
    answers = generate(shared, num_beams=2)
    assert torch.equal(answers, generate(apart, num_beams=2))
    shared.save_pretrained(tmp_path)
    loaded = load_member(tmp_path).network
    assert loaded.members[0].backbone is loaded.members[1].backbone
    assert torch.equal(generate(loaded, num_beams=2), answers)
    alone = shared.members[1]
    assert torch.equal(generate(alone), generate(apart.members[1]))
    with pytest.raises(ValueError, match=r"^There is nothing to read: give decoder_input_ids\.$"):
        alone(TOKENS)


@torch.no_grad()
def test_layers_that_read_every_token_as_a_row_have_adapters_too():
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 1}
    torch.manual_seed(0)
    opt = OPTForCausalLM(OPTConfig(vocab_size=100, num_attention_heads=2, max_position_embeddings=32, **sizes))
    shared, apart = (Mixture(made, Average()).eval() for made in adapted(opt, CausalLM, ["fc1", "fc2", "q_proj"]))
    torch.testing.assert_close(shared(TOKENS).logits, apart(TOKENS).logits, rtol=1e-3, atol=1e-3)
