import errno
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from moesaic.errors import CheckpointError, IncompatibleMembersError, RunError
from moesaic.moe import assemble, read_router, save_model, write_router
from moesaic.moe import writing as writing_module
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm

TOKENS = torch.tensor([[5, 17, 8, 42, 9, 3], [11, 2, 7, 7, 90, 61]])


def donors(tmp_path, family="llama", seeds=(1, 2, 3), **sizes):
    return [
        save_tiny_checkpoint(tmp_path / f"{family}-{i}", family, seed=seed, **sizes) for i, seed in enumerate(seeds)
    ]


def load(folder):
    network, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return network.eval()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_identical_experts_give_the_dense_model(tmp_path, family, tied):
    members = donors(tmp_path, family, seeds=(1, 1, 1), tie_word_embeddings=tied)
    network = load(assemble(members, tmp_path / "sparse"))
    expected = tiny_causal_lm(family, seed=1, tie_word_embeddings=tied)(TOKENS).logits
    torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)
    assert type(network).__name__ == ("Qwen3MoeForCausalLM" if family == "qwen3" else "MixtralForCausalLM")


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_heads_may_have_any_width(tmp_path, family):
    # Qwen3-0.6B has heads of 128 where hidden_size / num_attention_heads is 64; here 16, and 32 / 4 = 8.
    members = donors(tmp_path, family, seeds=(1, 1), head_dim=16)
    network = load(assemble(members, tmp_path / "sparse"))
    expected = tiny_causal_lm(family, seed=1, head_dim=16)(TOKENS).logits
    torch.testing.assert_close(network(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_each_feed_forward_layer_becomes_an_expert_and_the_rest_is_averaged(tmp_path):
    members = donors(tmp_path)
    network = load(assemble(members, tmp_path / "sparse"))
    dense = [AutoModelForCausalLM.from_pretrained(member) for member in members]
    layer = network.model.layers[1]
    for expert, model in enumerate(dense):
        gate_up = torch.cat([model.model.layers[1].mlp.gate_proj.weight, model.model.layers[1].mlp.up_proj.weight])
        assert torch.equal(layer.mlp.experts.gate_up_proj[expert], gate_up)
        assert torch.equal(layer.mlp.experts.down_proj[expert], model.model.layers[1].mlp.down_proj.weight)
    mean = torch.stack([model.model.layers[1].self_attn.q_proj.weight for model in dense]).mean(0)
    torch.testing.assert_close(layer.self_attn.q_proj.weight, mean)


def test_the_rest_can_come_from_one_member_or_a_base(tmp_path):
    members = donors(tmp_path)
    base = save_tiny_checkpoint(tmp_path / "base", seed=9)
    for shared, seed in (("llama-1", 2), (base, 9)):
        network = load(assemble(members, tmp_path / f"sparse-{seed}", shared=shared))
        expected = tiny_causal_lm(seed=seed).model.layers[0].self_attn.q_proj.weight
        assert torch.equal(network.model.layers[0].self_attn.q_proj.weight, expected)


def test_what_all_members_share_is_kept_bit_by_bit(tmp_path):
    members = donors(tmp_path, seeds=(1, 1, 1), dtype=torch.bfloat16)
    for number, member in enumerate(members):
        tensors = load_file(member / "model.safetensors")
        tensors = {name: value * (number + 1) if ".mlp." in name else value for name, value in tensors.items()}
        save_file(tensors, member / "model.safetensors", metadata={"format": "pt"})
    before = load_file(members[0] / "model.safetensors")
    written = load_file(assemble(members, tmp_path / "sparse") / "model-00001-of-00001.safetensors")
    for name, value in before.items():
        if ".mlp." not in name:
            assert torch.equal(written[name], value)


def test_the_files_have_the_fields_names(tmp_path):
    for family, name in {
        "llama": "model.layers.0.block_sparse_moe.experts.2.w1.weight",
        "qwen3": "model.layers.0.mlp.experts.2.gate_proj.weight",
    }.items():
        folder = assemble(donors(tmp_path, family), tmp_path / f"sparse-{family}", max_shard_bytes=60_000)
        index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        assert name in index
        assert len(set(index.values())) > 2  # several shards, and the routers' own file
        config = json.loads((folder / "config.json").read_text())
        assert config["num_experts"] == config["num_local_experts"] == 3
        assert config["num_experts_per_tok"] == 2
        assert config["expert_names"] == [f"{family}-{number}" for number in range(3)]
        assert AutoTokenizer.from_pretrained(folder).eos_token == "<eos>"
        assert (folder / "generation_config.json").exists()
        load(folder)


def test_a_saved_model_keeps_both_names_of_the_expert_count(tmp_path):
    network = load(assemble(donors(tmp_path), tmp_path / "sparse"))
    save_model(network, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["num_experts"] == config["num_local_experts"] == 3
    assert config["expert_names"] == ["llama-0", "llama-1", "llama-2"]
    assert torch.equal(load(tmp_path / "saved")(TOKENS).logits, network(TOKENS).logits)


def test_a_router_is_written_without_touching_other_files(tmp_path):
    folder = assemble(donors(tmp_path), tmp_path / "sparse")
    others = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "model-router.safetensors"}
    weights = {layer: torch.full((3, 32), float(layer)) for layer in range(2)}
    write_router(folder, weights)
    assert all(torch.equal(read_router(folder)[layer], weights[layer]) for layer in range(2))
    assert torch.equal(load(folder).model.layers[1].mlp.gate.weight, weights[1])
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_router_of_another_shape_is_refused(tmp_path):
    folder = assemble(donors(tmp_path), tmp_path / "sparse")
    with pytest.raises(ValueError, match=r"^Layer 0 needs a router of shape \[3, 32\], got one of shape \[2, 32\].$"):
        write_router(folder, {0: torch.zeros(2, 32), 1: torch.zeros(3, 32)})
    with pytest.raises(ValueError, match=r"^Layer 1 needs a router of shape \[3, 32\], got none.$"):
        write_router(folder, {0: torch.zeros(3, 32)})


def fails(kind, members, output, **arguments):
    with pytest.raises(kind) as error:
        assemble(members, output, **arguments)
    assert not output.exists()
    assert not list(output.parent.glob(".partial*"))
    return str(error.value)


def test_differences_are_all_named_with_both_values(tmp_path):
    first = save_tiny_checkpoint(tmp_path / "a")
    second = save_tiny_checkpoint(
        tmp_path / "b",
        intermediate_size=48,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
        vocab_size=310,
    )
    assert fails(IncompatibleMembersError, [first, second], tmp_path / "out") == (
        "The members cannot be assembled into one sparse model; they differ in:\n"
        "  intermediate_size: a has 64, b has 48\n  vocab_size: a has 300, b has 310\n"
        "  rms_norm_eps: a has 1e-06, b has 1e-05\n  rope_parameters: a has {rope_theta: 10000.0, rope_type: "
        "default}, b has {rope_theta: 500.0, rope_type: default}\n"
        "  tie_word_embeddings: a has False, b has True\nUse members that were trained from one seed, or combine "
        "them at logits with moesaic.Mixture."
    )


def test_different_architectures_are_named(tmp_path):
    members = [save_tiny_checkpoint(tmp_path / "a"), save_tiny_checkpoint(tmp_path / "b", "qwen3")]
    assert "\n  architecture: a has llama, b has qwen3\n" in fails(IncompatibleMembersError, members, tmp_path / "out")


def test_different_tokenizers_are_named(tmp_path):
    members = donors(tmp_path, seeds=(1, 2))
    file = members[1] / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    first, second = sorted(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(values))
    count = len(vocabulary)
    assert (f"\n  vocabulary: llama-0 has {count} tokens, llama-1 has {count}, 2 of which are not the same\n") in fails(
        IncompatibleMembersError, members, tmp_path / "out"
    )


def edit(member, change):
    tensors = load_file(member / "model.safetensors")
    change(tensors)
    save_file(tensors, member / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_is_named(tmp_path):
    members = donors(tmp_path)
    edit(members[1], lambda tensors: tensors.pop("model.norm.weight"))
    assert fails(CheckpointError, members, tmp_path / "out") == (
        f"{members[1]}: member 'llama-1' lacks tensor model.norm.weight; LlamaForCausalLM of this configuration has 21 "
        "tensors. Save the checkpoint again."
    )


def test_an_extra_tensor_is_named(tmp_path):
    members = donors(tmp_path)
    edit(members[2], lambda tensors: tensors.update({"extra.weight": torch.zeros(1)}))
    assert fails(CheckpointError, members, tmp_path / "out") == (
        f"{members[2]}: member 'llama-2' has an extra tensor extra.weight; LlamaForCausalLM of this configuration "
        "has 21 tensors. Save the checkpoint again."
    )


def test_a_tensor_of_another_shape_is_named(tmp_path):
    members = donors(tmp_path)
    edit(members[0], lambda tensors: tensors.update({"model.norm.weight": torch.zeros(31)}))
    assert fails(CheckpointError, members, tmp_path / "out") == (
        f"{members[0]}: member 'llama-0' has tensor model.norm.weight of shape [31], but its configuration says [32]. "
        "Save the checkpoint again."
    )


def test_biases_that_mixtral_lacks_are_refused(tmp_path):
    members = donors(tmp_path, attention_bias=True)
    assert fails(CheckpointError, members, tmp_path / "out") == (
        "The members have biases (attention_bias or mlp_bias), which Mixtral cannot express. Combine them at logits, "
        "with moesaic.Mixture."
    )


def test_an_architecture_without_a_sparse_form_is_refused(tmp_path):
    members = donors(tmp_path)
    config = json.loads((members[0] / "config.json").read_text())
    (members[0] / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert fails(CheckpointError, members, tmp_path / "out") == (
        "Checkpoints of type 'gpt2' cannot be assembled into a sparse one. There is a sparse architecture for llama, "
        "mistral, qwen3; combine others at logits, with moesaic.Mixture."
    )


@pytest.mark.parametrize(
    ("count", "arguments", "sentence"),
    [
        (1, {}, "assemble needs two members or more, got 1."),
        (
            3,
            {"num_experts_per_tok": 4},
            "num_experts_per_tok must be from 1 to the number of members, 3 (llama-0, llama-1, llama-2), got 4.",
        ),
        (
            3,
            {"num_experts_per_tok": 1},
            "num_experts_per_tok=1 rescales the one weight to 1, so the router cannot learn from the language-model "
            "loss. Use 2 or more.",
        ),
        (3, {"member_names": ["a", "b"]}, "member_names must be 3 different names, got a, b."),
    ],
)
def test_bad_arguments_are_refused(tmp_path, count, arguments, sentence):
    assert fails(ValueError, donors(tmp_path)[:count], tmp_path / "out", **arguments) == sentence


def test_a_base_that_does_not_fit_is_refused(tmp_path):
    base = save_tiny_checkpoint(tmp_path / "base", hidden_size=16)
    assert fails(CheckpointError, donors(tmp_path), tmp_path / "out", shared=base) == (
        f"{base}: the base does not fit the members:\n  hidden_size: llama-0 has 32, the base has 16"
    )


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.txt").write_text("years of work")
    with pytest.raises(RunError) as error:
        assemble(donors(tmp_path), output)
    assert str(error.value) == (
        f"{output}: this already holds something, and nothing in it was touched. Give a new folder."
    )
    assert [path.name for path in output.iterdir()] == ["chapter.txt"]


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 0, 10))
    message = fails(RunError, donors(tmp_path), tmp_path / "out")
    assert message == (
        f"{tmp_path / 'out'}: 0.00 GB are needed, and 0.00 GB are free. Make room, or give a folder on another disk."
    )


def test_a_disk_that_becomes_full_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing_module, "_copy", full)
    assert fails(RunError, donors(tmp_path), tmp_path / "out") == (
        f"{tmp_path / 'out'}: the disk is full. What was written is removed; make room and try again."
    )


def test_copying_without_the_kernels_help_gives_the_same_file(tmp_path, monkeypatch):
    members = donors(tmp_path)
    first = assemble(members, tmp_path / "first")

    def refuse(*arguments):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse)
    second = assemble(members, tmp_path / "second")
    name = "model-00001-of-00001.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
