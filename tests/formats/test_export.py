import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import moesaic
from moesaic.errors import CheckpointError, RunError
from moesaic.formats import check_same
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm


def test_the_exported_model_is_the_runs_model(finished, tmp_path):
    output = moesaic.export(finished[1].folder, tmp_path / "out")
    for file in finished[1].model.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(output / file.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (output / "README.md").read_text() == (finished[1].model / "README.md").read_text()
    assert not [file.name for file in output.iterdir() if file.name.startswith(".")]


def test_a_folder_that_holds_something_is_left_alone(finished, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError) as error:
        moesaic.export(finished[1].folder, tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: this already holds something, and nothing in it was touched. Give a new folder."
    )
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_run_that_is_not_finished_has_no_model(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"format": "moesaic run", "version": 1}))
    with pytest.raises(CheckpointError) as error:
        moesaic.export(tmp_path, tmp_path / "out")
    assert str(error.value) == f"{tmp_path}: this run is not finished, so there is no model yet. Run its recipe again."


def test_models_that_differ_are_noticed():
    with pytest.raises(CheckpointError, match=r"^The exported model's logits differ by .* \(allowed: 1e-05\)\. Export"):
        check_same(tiny_causal_lm(seed=1), tiny_causal_lm(seed=2))


def test_a_model_that_lacks_a_tensor_is_not_exported(tmp_path):
    source = save_tiny_checkpoint(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"plain Transformers does not load it whole: model\.norm\.weight\.$"):
        moesaic.export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
