"""Routers that choose in their own way, from a recipe to the model that is handed over."""

import io
import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import moesaic
from moesaic.combiners import Sigmoid, TopP
from moesaic.errors import RecipeError
from moesaic.moe import find_choices
from moesaic.recipe import compare
from moesaic.recipe.folder import RunFolder
from moesaic.recipe.load import load_recipe
from moesaic.recipe.road import plan_road
from moesaic.recipe.work import Work


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The whole road with routers that take a share of the probability; not to be changed."""
    from conftest import write_recipe

    path = write_recipe(tmp_path_factory.mktemp("chosen"))
    settings = ["router.choice={type: sigmoid, bias_update_rate: 0.01}", "joint.choice={type: top_p, top_p: 0.6}"]
    return path, settings, moesaic.run(path, settings=settings, folder=path.parent / "run", quiet=True)


def stages(path, *settings):
    """What each stage depends on, by its name."""
    work = Work(load_recipe(path, settings), RunFolder(path.parent / "run"), Console(file=io.StringIO()))
    return {stage.name: stage.settings for stage in plan_road(work)}


def test_each_stage_chooses_as_it_says(chosen):
    folder = chosen[2].folder
    for stage, choice in (("router", Sigmoid), ("joint", TopP)):
        member = moesaic.load_member(folder / "stages" / stage / "model")
        choices = find_choices(member.network)
        assert len(choices) == 2 and all(isinstance(own, choice) for own in choices)
        history = json.loads((folder / "stages" / stage / "history.json").read_text())
        assert "experts_used" in history[-1]["parts"]
    router = load_file(folder / "stages" / "router" / "model" / "model.safetensors")
    assert len([name for name in router if name.endswith("choice.bias")]) == 2


def test_the_model_that_is_handed_over_loads_where_moesaic_is_imported(chosen):
    run = chosen[2]
    code = f"""
import moesaic.moe
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(run.model)!r})
inputs = AutoTokenizer.from_pretrained({str(run.model)!r})("the cat sat", return_tensors="pt")
print(model(**inputs).logits.flatten().tolist())
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loads = f"import moesaic; moesaic.load_member({str(run.folder)!r})"
    subprocess.run([sys.executable, "-c", loads], check=True)
    member = moesaic.load_member(run.folder / "stages" / "joint" / "model")
    ours = member.network(**member.tokenizer("the cat sat", return_tensors="pt")).logits.flatten()
    torch.testing.assert_close(ours, torch.tensor(json.loads(result.stdout.splitlines()[-1])), atol=1e-5, rtol=0)
    card = (run.model / "README.md").read_text()
    assert "import moesaic.moe  # makes this kind of router known to Transformers\n" in card
    assert "as many as its routers choose" in " ".join(card.split())
    assert "It is an ordinary Transformers checkpoint" not in card


def test_the_page_shows_the_weights_that_the_choice_gave(chosen):
    run = chosen[2]
    assert run.report.exists()
    routing = json.loads((run.folder / "report" / "routing.json").read_text())
    weight = torch.tensor(routing["weight"])  # (layer, domain, expert)
    torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]), atol=1e-4, rtol=0)


def test_the_arena_trains_the_same_mixture_with_other_choices(recipe, tmp_path):
    settings = ["arena.combinations=[joint, joint_top_p, joint_sigmoid]"]
    table = compare(recipe, settings=settings, folder=tmp_path / "run", quiet=True).table
    names = ("mixture, trained jointly", "mixture, top-p 0.9", "mixture, sigmoid with bias")
    rows = [table.row(name) for name in names]
    assert {row.training_tokens for row in rows} == {rows[0].training_tokens}
    assert len({table.mean(row).value for row in rows}) > 1
    for stage, choice in (("joint-top-p", TopP(0.9)), ("joint-sigmoid", Sigmoid(2))):
        member = moesaic.load_member(tmp_path / "run" / "stages" / stage / "model")
        assert [own.arguments() for own in find_choices(member.network)] == [choice.arguments()] * 2


def test_a_recipe_that_says_no_choice_has_the_stages_that_it_had(recipe):
    plain = stages(recipe)
    assert all("choice" not in plain[stage] for stage in ("router", "joint"))
    assert "joint-top-p" not in plain
    changed = stages(recipe, "joint.choice={type: relu}")
    assert [name for name in plain if changed[name] != plain[name]] == ["joint", "export", "report"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["joint.choice={type: top_q}"],
            "joint.choice: {'type': 'top_q'} (a mapping) does not fit: input tag 'top_q' found using 'type' does not "
            "match any of the expected tags: 'top_p', 'sigmoid', 'noisy_top_k', 'relu'.",
        ),
        (
            ["joint.choice={type: top_p, top_q: 0.5}"],
            "joint.choice: unknown key 'top_q'. Did you mean 'top_p'?",
        ),
        (
            ["joint.choice={type: top_p, top_p: 1.5}"],
            "joint.choice.top_p: 1.5 (a number) does not fit: input should be less than or equal to 1.",
        ),
        (
            ["router.choice={type: noisy_top_k, top_k: 3}"],
            "router.choice: top_k must be from 1 to num_members (2), got 3.",
        ),
        (
            ["joint.choice={type: relu}", "joint.num_steps=0"],
            "joint.choice: routers would choose by 'relu' in a stage that is left out. Set joint.num_steps above 0, or "
            "leave the choice out.",
        ),
        (
            ["router.choice={type: relu}", "joint.router_domain_loss_coef=0.1"],
            "joint.router_domain_loss_coef: routers that choose by 'relu' keep their own balance, and have no such "
            "loss. Leave it out, or the choice.",
        ),
        (
            ["arena.combinations=[joint_top_p]", "joint.num_steps=0"],
            "arena.combinations: 'joint_top_p' needs a stage that is left out. Set joint.num_steps above 0, or leave "
            "it out.",
        ),
    ],
)
def test_what_does_not_fit_is_named(recipe, settings, sentence):
    with pytest.raises(RecipeError) as error:
        stages(recipe, *settings)
    assert str(error.value) == f"{recipe.name}, {sentence}"


def test_a_fixed_number_of_one_cannot_learn_where_weights_are_rescaled(recipe):
    with pytest.raises(RecipeError, match=r"joint\.choice: .* cannot learn"):
        stages(recipe, "joint.choice={type: sigmoid, top_k: 1}")
