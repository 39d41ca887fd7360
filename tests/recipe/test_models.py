from moesaic import Mixture
from moesaic.combiners import Average
from moesaic.recipe.models import load_models
from moesaic.testing import save_tiny_checkpoint, tiny_tokenizer


def test_a_run_gives_its_experts_and_the_model_made_of_them(finished):
    assert [model.name for model in load_models(finished[1].folder)] == ["letters", "digits", "mixture"]


def test_a_mixture_gives_its_members_and_itself(members, tmp_path):
    Mixture(members, Average()).save_pretrained(tmp_path / "team")
    tiny_tokenizer().save_pretrained(tmp_path / "team")
    models = load_models(tmp_path / "team")
    assert [model.name for model in models] == ["general", "news", "law", "team"]
    assert all(model.tokenizer is not None for model in models)


def test_another_checkpoint_stands_for_itself(tmp_path):
    assert [model.name for model in load_models(save_tiny_checkpoint(tmp_path / "plain"))] == ["plain"]
