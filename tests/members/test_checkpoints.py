import json
import shutil

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from moesaic.errors import CheckpointError
from moesaic.members import checkpoints as module
from moesaic.members import load_member, read_checkpoint
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm


@pytest.fixture
def folder(tmp_path):
    return save_tiny_checkpoint(tmp_path / "news")


def fails(path):
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    return str(error.value)


def test_headers_say_what_the_files_hold(folder):
    checkpoint = read_checkpoint(folder)
    network = tiny_causal_lm()
    assert {name: header.shape for name, header in checkpoint.tensors.items()} == {
        name: tuple(parameter.shape) for name, parameter in network.named_parameters()
    }
    assert checkpoint.num_parameters == network.num_parameters()
    assert checkpoint.num_bytes == 4 * checkpoint.num_parameters


def test_a_checkpoint_in_several_files_is_read(tmp_path):
    tiny_causal_lm().save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert read_checkpoint(tmp_path).num_parameters == tiny_causal_lm().num_parameters()


def test_a_member_is_loaded_with_its_tokenizer_and_name(folder):
    member = load_member(folder)
    assert member.name == "news"
    assert member.tokenizer.eos_token == "<eos>"
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(member.network(tokens).logits, tiny_causal_lm()(tokens).logits)
    assert repr(member) == "CausalLM('news', LlamaForCausalLM, 0.0M parameters)"


def test_a_missing_folder_is_named():
    assert fails("/no/such/folder") == "/no/such/folder: there is no such folder."


def test_a_model_that_the_hub_does_not_have_is_named(monkeypatch):
    def refuse(name, **arguments):
        raise OSError("no connection")

    monkeypatch.setattr(module, "snapshot_download", refuse)
    assert fails("someone/model") == (
        "someone/model: this is no folder, and the Hub did not give such a model (no connection)."
    )
    assert issubclass(RepositoryNotFoundError, OSError)


def test_a_model_from_the_hub_is_downloaded(monkeypatch, folder):
    asked = {}

    def download(name, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(module, "snapshot_download", download)
    assert read_checkpoint("someone/model").path == folder
    assert asked["name"] == "someone/model"
    assert "*.safetensors" in asked["patterns"] and "*.bin" not in asked["patterns"]


def test_a_folder_without_a_configuration_is_named(folder):
    (folder / "config.json").unlink()
    assert fails(folder) == f"{folder}: there is no config.json, so this is no Transformers checkpoint."


def test_a_pickle_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert fails(folder) == (
        f"{folder}: the weights are a pickle (pytorch_model.bin), which can run code when it is read. Load it where "
        "you trust it and save it with save_pretrained, which writes safetensors."
    )


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    assert fails(folder) == (
        f"{folder}: there are no weights: neither model.safetensors nor model.safetensors.index.json."
    )


def test_a_file_cut_short_is_named(folder):
    file = folder / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    assert fails(folder) == f"{file}: cut short: it has {size - 100:,} of {size:,} bytes. Copy it again."


@pytest.mark.parametrize("content", [b"", b"\x01\x02", b"\xff" * 64, b"\x08" + b"\x00" * 7 + b"not json"])
def test_a_file_with_a_damaged_beginning_is_named(folder, content):
    file = folder / "model.safetensors"
    file.write_bytes(content)
    assert fails(folder) == f"{file}: this is no safetensors file, or its beginning is damaged. Copy it again."


def test_a_missing_shard_is_named(tmp_path):
    tiny_causal_lm().save_pretrained(tmp_path, max_shard_size="60KB")
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.unlink()
    assert fails(tmp_path) == (
        f"{tmp_path}: model.safetensors.index.json names {first.name}, which is missing. Copy the checkpoint again."
    )


def test_a_tensor_that_only_the_index_knows_is_named(tmp_path):
    tiny_causal_lm().save_pretrained(tmp_path, max_shard_size="60KB")
    file = sorted(tmp_path.glob("*.safetensors"))[0]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    assert fails(tmp_path) == (
        f"{tmp_path}: model.safetensors.index.json lists {name}, but the files do not hold it. Copy the checkpoint "
        f"again."
    )


def test_reading_a_header_runs_nothing_and_loads_nothing(folder):
    config = json.loads((folder / "config.json").read_text())
    assert read_checkpoint(folder).config == config
    shutil.rmtree(folder)
