import json

import pytest
import torch

from moesaic.errors import CheckpointError, IncompatibleMembersError
from moesaic.members import (
    CausalLM,
    adapter_members,
    add_adapter,
    load_adapter,
    load_adapter_members,
    load_network,
    merge_adapter,
    save_adapter,
)
from moesaic.members.adapters import adapter_names
from moesaic.moe import assemble
from moesaic.testing import tiny_causal_lm, tiny_tokenizer
from moesaic.training import train
from moesaic.types import Member

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]])


def change(network, name, seed):
    """An adapter that does something: new ones begin with B = 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for place, tensor in network.named_parameters():
            if f".lora_B.{name}." in place:
                tensor.normal_(std=0.3, generator=generator)


def backbone(names=("news", "law"), **sizes):
    network = tiny_causal_lm(**sizes)
    for seed, name in enumerate(names):
        add_adapter(network, name, rank=2, seed=seed)
        change(network, name, seed)
    return CausalLM("tiny", network, tiny_tokenizer())


@torch.no_grad()
def test_a_new_adapter_changes_nothing():
    network = tiny_causal_lm()
    before = network(TOKENS).logits
    add_adapter(network, "news", rank=2)
    torch.testing.assert_close(network(TOKENS).logits, before, rtol=0, atol=0)


@torch.no_grad()
def test_members_share_the_backbone_and_each_equals_its_merged_model():
    made = backbone()
    news, law = adapter_members(made)
    assert isinstance(news, Member)
    assert news.network.backbone is law.network.backbone is made.network
    for member in (news, law):
        merged = merge_adapter(made.network, member.name)
        assert type(merged) is type(tiny_causal_lm()) and not any("lora" in name for name, _ in merged.named_modules())
        torch.testing.assert_close(member.network(TOKENS).logits, merged(TOKENS).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(news.network(TOKENS).logits, law.network(TOKENS).logits)


def test_training_a_member_trains_its_adapter_alone():
    made = backbone()
    before = {name: tensor.clone() for name, tensor in made.network.named_parameters()}
    news, _ = adapter_members(made)

    class Rhyme:
        def documents(self):
            yield "the cat sat on the mat " * 20

    history = train(news, Rhyme(), num_steps=10, batch_size=4, sequence_length=16, learning_rate=1e-2)
    assert history[-1].loss < history[0].loss
    changed = {name for name, tensor in made.network.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".lora_" in name and ".news." in name}


@torch.no_grad()
def test_a_saved_adapter_is_the_same_when_loaded(tmp_path):
    made = backbone()
    for name in ("news", "law"):
        save_adapter(made.network, name, tmp_path / name)
    assert json.loads((tmp_path / "news" / "adapter_config.json").read_text())["r"] == 2
    fresh = CausalLM("tiny", tiny_causal_lm(), tiny_tokenizer())
    loaded = load_adapter_members(fresh, {"news": tmp_path / "news", "law": tmp_path / "law"})
    for before, after in zip(adapter_members(made), loaded, strict=True):
        torch.testing.assert_close(after.network(TOKENS).logits, before.network(TOKENS).logits, rtol=0, atol=0)
    assert load_adapter(tiny_causal_lm(), tmp_path / "news") == "news"


# PEFT's wrapper asks Transformers for a name that is about to go.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@torch.no_grad()
def test_peft_reads_what_we_write_and_we_what_it_writes(tmp_path):
    peft = pytest.importorskip("peft")
    made = backbone(["news"])
    expected = made.network(TOKENS).logits
    theirs = peft.PeftModel.from_pretrained(tiny_causal_lm(), save_adapter(made.network, "news", tmp_path / "ours"))
    torch.testing.assert_close(theirs(TOKENS).logits, expected, rtol=0, atol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    (ours,) = load_adapter_members(CausalLM("tiny", tiny_causal_lm()), {"news": tmp_path / "theirs"})
    torch.testing.assert_close(ours.network(TOKENS).logits, expected, rtol=0, atol=0)


def test_merged_adapters_are_experts_of_a_sparse_checkpoint(tmp_path):
    made = backbone()
    folders = []
    for name in ("news", "law"):
        merge_adapter(made.network, name).save_pretrained(tmp_path / name)
        made.tokenizer.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    sparse = load_network(assemble(folders, tmp_path / "sparse"))
    assert sparse.config.num_local_experts == 2


def test_an_adapted_model_generates_as_its_merged_model():
    made = backbone()
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    for member in adapter_members(made):
        merged = merge_adapter(made.network, member.name)
        assert torch.equal(member.network.generate(TOKENS, **options), merged.generate(TOKENS, **options))


@torch.no_grad()
def test_an_adapted_model_is_saved_without_the_other_adapters(tmp_path):
    # The first one's name is that of a part of the model, too.
    news, law = adapter_members(backbone(["model", "law"]))
    law.network.save_pretrained(tmp_path)
    again = load_network(tmp_path)
    assert adapter_names(again.backbone) == ["law"]
    torch.testing.assert_close(again(TOKENS).logits, law.network(TOKENS).logits, rtol=0, atol=0)
    assert news.network.num_active_parameters == law.network.num_active_parameters
    assert law.network.num_active_parameters == sum(parameter.numel() for parameter in again.parameters())


def test_bad_adapters_say_what_is_wrong():
    network = tiny_causal_lm()
    with pytest.raises(ValueError) as error:
        add_adapter(network, "news", rank=0)
    assert str(error.value) == "rank must be 1 or more, got 0. An adapter of rank 8 is a common beginning."
    with pytest.raises(ValueError) as error:
        add_adapter(network, "news", target_modules=["q_proj", "lm_head"])
    assert str(error.value) == (
        "target_modules: LlamaForCausalLM has no linear layer called 'lm_head'; there are q_proj, k_proj, v_proj, "
        "o_proj, gate_proj, up_proj, down_proj. The embeddings and the output layer take no adapter."
    )
    with pytest.raises(ValueError) as error:
        add_adapter(network, "news", target_modules=[])
    assert str(error.value).startswith("target_modules must name at least one linear layer; there are q_proj, ")
    with pytest.raises(ValueError) as error:
        add_adapter(network, "a.b")
    assert str(error.value) == ("An adapter's name has letters, digits, - and _ only, got 'a.b'. Give it another name.")
    add_adapter(network, "news")
    with pytest.raises(ValueError) as error:
        add_adapter(network, "news")
    assert str(error.value) == "The backbone has an adapter called 'news' already. Give the new one its own name."
    with pytest.raises(ValueError) as error:
        merge_adapter(network, "law")
    assert str(error.value) == "The backbone has no adapter called 'law'; there are news."
    with pytest.raises(ValueError) as error:
        adapter_members(CausalLM("tiny", tiny_causal_lm()))
    assert str(error.value) == "tiny has no adapter. Add one by moesaic.members.add_adapter, or load one."


def test_an_adapter_for_another_backbone_is_refused_by_name(tmp_path):
    folder = save_adapter(backbone(["news"]).network, "news", tmp_path / "news")
    wide = tiny_causal_lm(intermediate_size=96)
    with pytest.raises(IncompatibleMembersError) as error:
        load_adapter(wide, folder)
    assert str(error.value).startswith(
        f"{folder}: this adapter was trained on another backbone: model.layers.0.mlp.down_proj has 64 inputs there and "
        "96 here, and "
    )
    assert not adapter_names(wide)
    with pytest.raises(IncompatibleMembersError) as error:
        load_adapter(tiny_causal_lm(seed=1), folder)  # the same shapes, other weights
    fingerprints = [json.loads((folder / "backbone.json").read_text())["fingerprint"]]
    save_adapter(backbone(["news"], seed=1).network, "news", tmp_path / "other")
    fingerprints.append(json.loads((tmp_path / "other" / "backbone.json").read_text())["fingerprint"])
    assert str(error.value) == (
        f"{folder}: this adapter was trained on another backbone: its fingerprint is {fingerprints[0]} there and "
        f"{fingerprints[1]} here. Load it on the model that adapter_config.json names (it names none), or train one "
        "for this backbone."
    )
    shallow = tiny_causal_lm(num_hidden_layers=1)
    with pytest.raises(IncompatibleMembersError, match=r"it adapts model\.layers\.1\.mlp\.down_proj, which this"):
        load_adapter(shallow, folder)


def test_folders_that_hold_no_adapter_are_refused(tmp_path):
    network = tiny_causal_lm()
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(CheckpointError) as error:
        load_adapter(network, folder)
    assert str(error.value) == (
        f"{folder}: there is no adapter_config.json, so this is no adapter. Give a folder that PEFT wrote."
    )
    save_adapter(backbone(["news"]).network, "news", folder)
    settings = folder / "adapter_config.json"
    good = json.loads(settings.read_text())
    settings.write_text(json.dumps(good | {"use_dora": True}))
    with pytest.raises(CheckpointError) as error:
        load_adapter(network, folder)
    assert str(error.value) == (
        f"{folder}: adapter_config.json asks for use_dora=True, which moesaic does not do. Merge the adapter with PEFT "
        "(merge_and_unload), and use the result as an ordinary checkpoint."
    )
    settings.write_text(json.dumps(good | {"peft_type": "IA3"}))
    with pytest.raises(CheckpointError) as error:
        load_adapter(network, folder)
    assert str(error.value) == f"{folder}: peft_type is 'IA3', and moesaic reads LORA only."
    settings.write_text("{")
    with pytest.raises(CheckpointError) as error:
        load_adapter(network, folder)
    assert str(error.value) == f"{folder}: adapter_config.json is damaged: it is no JSON. Copy it again."
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError) as error:
        load_adapter(network, folder)
    assert str(error.value) == (
        f"{folder}: there is no adapter_model.safetensors, and adapter_model.bin is a pickle, which can run code when "
        "it is read. Save the adapter with PEFT's save_pretrained, which writes safetensors."
    )


def test_an_adapter_whose_files_disagree_is_refused_and_a_missing_peft_is_named(tmp_path, monkeypatch):
    folder = save_adapter(backbone(["news"]).network, "news", tmp_path / "news")
    settings = folder / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"r": 4}))
    with pytest.raises(CheckpointError, match=r"has the shape \(2, 32\), and by adapter_config\.json it should be"):
        load_adapter(tiny_causal_lm(), folder)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError) as error:
        add_adapter(tiny_causal_lm(), "news")
    assert str(error.value) == (
        "Adapters need PEFT, which is not installed. Install it by: pip install 'moesaic[adapters]'"
    )
