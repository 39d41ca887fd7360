import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from moesaic.errors import CheckpointError, DataError, IncompatibleMembersError, RunError
from moesaic.formats import model_card
from moesaic.members import load_network, read_checkpoint
from moesaic.moe import (
    add_expert,
    assemble,
    extend_router,
    read_router,
    read_routing,
    remove_expert,
    replace_expert,
    save_model,
)
from moesaic.moe import writing as writing_module
from moesaic.testing import save_tiny_checkpoint

TOKENS = torch.tensor([[5, 17, 8, 42, 9, 3], [11, 2, 7, 7, 90, 61]])
NAMES = ("news", "law", "code")
WORDS = {"news": "the cat sat", "law": "die Katze auf", "code": "def mat return", "chat": "le chat dort"}


@pytest.fixture
def donors(tmp_path):
    return {name: save_tiny_checkpoint(tmp_path / name, seed=seed) for seed, name in enumerate(WORDS)}


@pytest.fixture
def mixture(donors, tmp_path):
    return assemble([donors[name] for name in NAMES], tmp_path / "mixture")


@pytest.fixture
def texts(tmp_path):
    for name, words in WORDS.items():
        lines = (json.dumps({"text": f"{words} " * 8}) for _ in range(8))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return lambda *names: {name: tmp_path / f"{name}.jsonl" for name in names}


def load(folder):
    network, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return network.eval()


def tensors(folder):
    """All tensors in all files of a checkpoint, whether the index names them or not."""
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def config(folder):
    return json.loads((folder / "config.json").read_text())


def assert_same_weights(first, second):
    """Equal but for the routers."""
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "gate.weight" not in name)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_what_comes_and_goes_is_as_if_it_had_been_assembled(tmp_path, texts, family):
    donors = {name: save_tiny_checkpoint(tmp_path / name, family, seed=seed) for seed, name in enumerate(WORDS)}

    def assembled(*names):
        folder = tmp_path / "-".join(("assembled", *names))
        if not folder.exists():
            assemble([donors[name] for name in names], folder, shared=donors["news"])
        return folder

    three, two = assembled(*NAMES), assembled("news", "law")
    added = add_expert(two, donors["code"], tmp_path / "added", texts=texts(*NAMES))
    assert_same_weights(added, three)
    assert config(added) == config(three)
    removed = remove_expert(three, "law", tmp_path / "removed", router="keep")
    assert_same_weights(removed, assembled("news", "code"))
    assert config(removed) == config(assembled("news", "code"))
    replaced = replace_expert(three, "law", donors["chat"], tmp_path / "replaced", router="keep")
    assert_same_weights(replaced, assembled("news", "chat", "code"))
    assert config(replaced)["expert_names"] == list(NAMES)
    for folder in (added, removed, replaced):
        load(folder)


def test_kept_routers_keep_their_rows(mixture, donors, texts, tmp_path):
    before = read_router(mixture)
    added = read_router(add_expert(mixture, donors["chat"], tmp_path / "added", texts=texts(*WORDS), router="keep"))
    removed = read_router(remove_expert(mixture, "law", tmp_path / "removed", router="keep"))
    replaced = read_router(replace_expert(mixture, "law", donors["chat"], tmp_path / "replaced", router="keep"))
    for layer, rows in before.items():
        assert added[layer].shape == (4, 32) and torch.equal(added[layer][:3], rows)
        assert torch.equal(removed[layer], rows[[0, 2]])
        assert torch.equal(replaced[layer], rows)


def test_a_removed_expert_leaves_the_others_outputs(donors, tmp_path):
    # Identical experts give the dense model whatever the router says, before and after.
    members = [save_tiny_checkpoint(tmp_path / f"same-{number}", seed=1) for number in range(3)]
    mixture = assemble(members, tmp_path / "mixture", member_names=["a", "b", "c"])
    removed = remove_expert(mixture, "b", tmp_path / "removed", router="keep")
    torch.testing.assert_close(load(removed)(TOKENS).logits, load(members[0])(TOKENS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("router", ["keep", "refit"])
def test_the_new_experts_text_goes_to_it_and_the_others_to_theirs(mixture, donors, texts, tmp_path, router):
    mixture = replace_expert(mixture, "news", donors["news"], texts=texts(*NAMES), router="refit")
    added = load_network(add_expert(mixture, donors["chat"], tmp_path / "added", texts=texts(*WORDS), router=router))
    tokenizer = AutoTokenizer.from_pretrained(mixture)
    for expert, words in enumerate(WORDS.values()):
        tokens = torch.tensor([tokenizer(f"{words} " * 8)["input_ids"]])
        routing = read_routing(added(tokens, output_router_logits=True).router_logits, added.config)
        assert (routing.weights.argmax(-1) == expert).float().mean() > 0.5  # chance is a quarter


def test_a_cautious_newcomer_takes_less_from_the_others(mixture, donors, texts, tmp_path):
    domains = [[torch.randint(10, 290, (4, 32), generator=torch.Generator().manual_seed(0))] for _ in range(3)]
    network = load_network(mixture)
    shares = []
    for caution in (0.1, 1, 10):
        extend_router(network, domains, caution=caution)
        routing = read_routing(network(domains[0][0], output_router_logits=True).router_logits, network.config)
        shares.append((routing.top_k_index[..., 0] == 2).float().mean().item())
    assert shares[0] > shares[1] > shares[2]


def test_a_mixture_is_changed_in_place(mixture, donors, texts):
    (mixture / "README.md").write_text("mine")
    (mixture / "notes").mkdir()
    (mixture / "notes" / "plan.txt").write_text("mine too")
    assert add_expert(mixture, donors["chat"], texts=texts(*WORDS)) == mixture
    assert config(mixture)["expert_names"] == list(WORDS)
    assert remove_expert(mixture, "news", router="keep") == mixture
    assert config(mixture)["expert_names"] == ["law", "code", "chat"]
    assert (mixture / "README.md").read_text() == "mine" and (mixture / "notes" / "plan.txt").exists()
    load(mixture)
    assert not [path for path in mixture.parent.iterdir() if path.name.startswith(".")]


def test_a_change_that_was_killed_between_its_renames_is_undone_by_the_next_command(mixture):
    # What such a kill leaves: the mixture under another name, the changed one whole beside it, and no folder.
    before = tensors(mixture)
    (mixture.parent / f".partial-{mixture.name}").mkdir()
    mixture.rename(mixture.parent / f".replaced-{mixture.name}")
    with pytest.warns(UserWarning) as caught:
        assert read_checkpoint(mixture).path == mixture
    assert str(caught[0].message) == (
        f"{mixture}: a change of this folder was cut off in its last moment, so it is again what it was before. Make "
        "the change again."
    )
    ours = tensors(mixture)
    assert ours.keys() == before.keys() and all(torch.equal(ours[name], before[name]) for name in before)
    assert remove_expert(mixture, "law") == mixture
    assert config(mixture)["expert_names"] == ["news", "code"]
    assert not [path for path in mixture.parent.iterdir() if path.name.startswith(".")]


def test_the_model_card_names_the_experts_that_are_there(mixture, donors, texts):
    facts = {"title": "papers", "verdict": "It won.", "table": "", "versions": {}, "recipe": "data:"}
    card = mixture / "README.md"
    card.write_text(model_card(experts=NAMES, top_k=2, **facts))
    add_expert(mixture, donors["chat"], texts=texts(*WORDS))
    remove_expert(mixture, "law")
    replace_expert(mixture, "news", donors["law"])
    expected = model_card(experts=["news", "code", "chat"], top_k=2, **facts)
    changes = (
        "## Changed since\n\nWhat stands below was measured and made before this:\n\n- `chat` was added.\n"
        "- `law` was removed.\n- another expert took the place of `news`.\n\n"
    )
    assert card.read_text() == expected.replace("## How it compares", f"{changes}## How it compares")


def test_a_trained_mixture_that_transformers_saved_is_changed_too(mixture, donors, texts, tmp_path):
    save_model(load_network(mixture), tmp_path / "trained")
    AutoTokenizer.from_pretrained(mixture).save_pretrained(tmp_path / "trained")
    added = add_expert(tmp_path / "trained", donors["chat"], tmp_path / "added", texts=texts(*WORDS))
    removed = remove_expert(added, "chat", tmp_path / "removed", router="keep")
    assert torch.equal(load(removed)(TOKENS).logits, load(mixture)(TOKENS).logits)


def test_top_k_is_lowered_with_a_warning_where_too_few_are_left(mixture, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two = remove_expert(mixture, "law", tmp_path / "two", router="keep")
    assert config(two)["num_experts_per_tok"] == 2
    with pytest.warns(UserWarning) as caught:
        one = remove_expert(two, "code", tmp_path / "one")
    assert str(caught[0].message) == (
        f"{two}: num_experts_per_tok is lowered from 2 to 1, the number of experts that are left (news)."
    )
    assert config(one)["num_experts_per_tok"] == 1
    assert load(one)(TOKENS).logits.isfinite().all()


def fails(kind, change, *arguments, **options):
    """The message, where nothing beside the mixture was left behind."""
    with pytest.raises(kind) as error:
        change(*arguments, **options)
    return str(error.value)


def test_names_that_are_taken_or_unknown_are_refused(mixture, donors, texts, tmp_path):
    output = tmp_path / "out"
    assert fails(ValueError, add_expert, mixture, donors["chat"], output, name="law", texts=texts(*NAMES)) == (
        f"{mixture}: an expert is already called 'law'. Give another name, or replace that expert."
    )
    unknown = f"{mixture}: no expert is called 'chat'; there are news, law, code."
    assert fails(ValueError, remove_expert, mixture, "chat", output) == unknown
    assert fails(ValueError, replace_expert, mixture, "chat", donors["chat"], output) == unknown
    assert not output.exists()


def test_the_last_expert_stays(mixture, tmp_path):
    two = remove_expert(mixture, "news", tmp_path / "two", router="keep")
    with pytest.warns(UserWarning, match="num_experts_per_tok is lowered"):
        one = remove_expert(two, "law", tmp_path / "one", router="keep")
    assert fails(ValueError, remove_expert, one, "code", tmp_path / "none", router="keep") == (
        f"{one}: 'code' is the only expert, and a mixture needs one. Add another first, or replace this one."
    )


def test_an_expert_of_another_shape_is_refused_with_every_difference(mixture, texts, tmp_path):
    other = save_tiny_checkpoint(tmp_path / "chat", intermediate_size=48, rms_norm_eps=1e-5)
    sentence = (
        f"{other}: this cannot become an expert of {mixture}; they differ in:\n"
        "  intermediate_size: the mixture has 64, chat has 48\n"
        "  rms_norm_eps: the mixture has 1e-06, chat has 1e-05\n"
        "Use a model that was trained from the same seed, or combine both at logits with moesaic.Mixture."
    )
    assert fails(IncompatibleMembersError, add_expert, mixture, other, texts=texts(*WORDS)) == sentence
    sentence = sentence.replace("chat has", "law has")
    assert fails(IncompatibleMembersError, replace_expert, mixture, "law", other, router="keep") == sentence


def test_an_expert_of_another_architecture_is_refused(mixture, texts, tmp_path):
    other = save_tiny_checkpoint(tmp_path / "chat", "qwen3")
    assert fails(IncompatibleMembersError, add_expert, mixture, other, texts=texts(*WORDS)) == (
        f"{other}: this cannot become an expert of {mixture}; they differ in:\n"
        "  architecture: the mixture's experts are of llama or mistral, chat is of qwen3\n"
        "Use a model that was trained from the same seed, or combine both at logits with moesaic.Mixture."
    )


def test_an_expert_of_another_tokenizer_is_refused(mixture, donors, texts):
    file = donors["chat"] / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    first, second = sorted(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(values))
    count = len(vocabulary)
    message = fails(IncompatibleMembersError, add_expert, mixture, donors["chat"], texts=texts(*WORDS))
    assert f"\n  vocabulary: the mixture has {count} tokens, chat has {count}, 2 of which are not the same\n" in message


def test_a_checkpoint_without_experts_is_refused(donors, texts):
    assert fails(CheckpointError, add_expert, donors["law"], donors["chat"], texts=texts(*WORDS)) == (
        f"{donors['law']}: a checkpoint of type 'llama' has no experts that could be exchanged. Give a sparse "
        "checkpoint that moesaic.assemble made, of type mixtral, qwen3_moe."
    )


def test_a_mixture_that_lacks_a_matrix_is_refused(mixture):
    file = mixture / "model-00001-of-00001.safetensors"
    lost = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
    save_file({name: value for name, value in load_file(file).items() if name != lost}, file)
    index = json.loads((mixture / "model.safetensors.index.json").read_text())
    del index["weight_map"][lost]
    (mixture / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fails(CheckpointError, remove_expert, mixture, "law", router="keep") == (
        f"{mixture}: a layer lacks its router or a matrix of an expert; 3 experts in 2 layers are what config.json "
        "says. Give a checkpoint with one router in each layer and one tensor for each matrix of each expert, as "
        "moesaic.assemble writes it."
    )


def test_text_must_be_there_for_every_expert(mixture, donors, texts, tmp_path):
    assert fails(DataError, add_expert, mixture, donors["chat"], texts=texts(*NAMES)) == (
        "Routers are fitted on text of every expert's domain: news, law, code, chat; there is text for news, law, "
        "code. Give one text for each expert, by its name."
    )
    assert fails(ValueError, remove_expert, mixture, "law", router="refit") == (
        "router='refit' needs text of every expert's domain (news, code), got none. Give texts, or router='keep'."
    )
    (tmp_path / "code.jsonl").write_text("")
    assert fails(DataError, remove_expert, mixture, "law", texts=texts("news", "code"), router="refit") == (
        "The text of expert 'code' has no document. Give some text of its domain."
    )
    (mixture / "tokenizer_config.json").unlink()
    assert fails(CheckpointError, remove_expert, mixture, "law", texts=texts("news", "code"), router="refit") == (
        f"{mixture}: there is no tokenizer, so no text can be read. Save the tokenizer there."
    )


def test_bad_arguments_are_refused(mixture, donors, texts):
    assert fails(ValueError, remove_expert, mixture, "law", router="magic") == (
        "router must be refit or keep, got 'magic'."
    )
    for change, rest in ((remove_expert, ()), (replace_expert, (donors["chat"],))):
        assert fails(ValueError, change, mixture, "law", *rest, texts=texts("news", "code")) == (
            "router='keep' keeps all rows here, so texts would not be read. Leave them out, or refit."
        )
    options = {"texts": texts(*WORDS), "router": "refit", "caution": 10}
    assert fails(ValueError, add_expert, mixture, donors["chat"], **options) == (
        "router='refit' treats all experts the same, got caution=10. Use router='keep'."
    )
    options = {"texts": texts(*WORDS), "router": "keep"}
    assert fails(ValueError, add_expert, mixture, donors["chat"], caution=0, **options) == (
        "caution must be positive, got 0; 1 counts all domains the same."
    )
    assert config(mixture)["expert_names"] == list(NAMES)


def test_folders_that_should_not_be_written_are_left_alone(mixture, donors, tmp_path):
    taken = donors["law"]
    assert fails(RunError, remove_expert, mixture, "law", taken, router="keep") == (
        f"{taken}: this already holds something, and nothing in it was touched. Give a new folder."
    )
    within = mixture / "without-law"
    assert fails(ValueError, remove_expert, mixture, "law", within, router="keep") == (
        f"{within}: this lies within the mixture that is read. Give a folder outside of it."
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    mixture.rename(run / "model")
    assert fails(ValueError, remove_expert, run, "law", router="keep") == (
        f"{run}: a run or a model of the Hub is not changed in place. Give output, a new folder for the changed "
        "mixture."
    )


def test_a_disk_that_becomes_full_leaves_the_mixture_as_it_was(mixture, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    before = load(mixture)(TOKENS).logits
    monkeypatch.setattr(writing_module, "_copy", full)
    assert fails(RunError, remove_expert, mixture, "law", router="keep") == (
        f"{mixture}: the disk is full. What was written is removed; make room and try again."
    )
    assert torch.equal(load(mixture)(TOKENS).logits, before)
    assert not [path for path in mixture.parent.iterdir() if path.name.startswith(".")]
