"""The arena: any list of combinations, each row cached by what it depends on, budgets that are enforced."""

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

import moesaic
from moesaic.arena import DENSE, ORACLE
from moesaic.errors import BudgetError, RecipeError
from moesaic.recipe import compare
from moesaic.testing import save_tiny_checkpoint, tiny_tokenizer

ENSEMBLES = [
    "ensembles.bagging.num_members=2",
    "ensembles.boosting.num_rounds=2",
    "ensembles.num_snapshots=2",
    "ensembles.stacking.num_steps=4",
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Every combination there is, measured on the tiny recipe; not to be changed."""
    from conftest import write_recipe

    path = write_recipe(tmp_path_factory.mktemp("arena"))
    settings = [*ENSEMBLES, "arena.combinations=standard"]
    return path, settings, compare(path, settings=settings, folder=path.parent / "run", quiet=True)


def stages(folder):
    """When each stage and row was made, by its name."""
    return {
        str(place.relative_to(folder)): place.stat().st_ino
        for parent in ("stages", "rows")
        for place in (folder / parent).iterdir()
    }


def test_the_standard_line_up_has_at_least_twenty_combinations(everything):
    table = everything[2].table
    combinations = [row for row in table.rows if row.kind != "expert" and row.name not in (ORACLE, "seed")]
    assert len(combinations) >= 20
    assert len({row.name for row in table.rows}) == len(table.rows)


def test_no_row_uses_more_than_the_mixtures_road(everything):
    table = everything[2].table
    budget = table.row("mixture, trained jointly").training_tokens
    for row in table.rows:
        assert row.training_tokens <= budget, row.name
    # Seed 12 steps, two experts of 6, router 2, joint 6, each of 8 x 16 tokens; after the seed 20 steps are shared out.
    assert budget == 32 * 128
    assert table.row(DENSE).training_tokens == 32 * 128
    assert table.row("bagging").training_tokens == (12 + 2 * 10) * 128
    assert table.row("posterior").training_tokens == (12 + 2 * 6) * 128


def test_cluster_routing_knows_the_domains_by_their_words(everything):
    table = everything[2].table
    clustered, average = table.row("nearest cluster (c-BTM)"), table.row("probability average")
    assert table.mean(clustered).value < table.mean(average).value


def test_boosting_is_charged_for_reading_with_earlier_rounds(everything):
    table = everything[2].table
    boosting, bagging = table.row("boosting, stagewise"), table.row("bagging")
    assert boosting.training_tokens == bagging.training_tokens
    # Of two rounds of 10 steps the second also reads its text with the first: 2 operations more for each parameter.
    size = table.row("seed").active_parameters
    assert boosting.training_flops - bagging.training_flops == pytest.approx(2 * size * 10 * 128, rel=0.01)


def test_every_ensemble_has_its_diversity_and_every_model_its_calibration(everything):
    table = everything[2].table
    for name in ("bagging", "posterior", "snapshot ensemble", "boosting, stagewise"):
        assert 0 < table.row(name).diversity.disagreement <= 1
    for row in table.rows:
        if row.name != ORACLE:
            assert table.mean(row, "calibrated_nats_per_token").value > 0


def test_the_table_is_written_in_every_form(everything):
    folder = everything[2].folder
    assert (folder / "arena.md").read_text().count("| boosting, stagewise |") >= 1
    assert json.loads((folder / "arena.json").read_text())
    assert "boosting" in (folder / "arena.csv").read_text()
    assert "<svg" in (folder / "arena.svg").read_text()


def test_a_row_is_measured_again_only_when_what_it_is_made_of_changes(everything, tmp_path):
    path, settings, comparison = everything
    before = stages(comparison.folder)
    compare(path, settings=[*settings, "ensembles.boosting.shrinkage=0.25"], folder=comparison.folder, quiet=True)
    after = stages(comparison.folder)
    changed = {name for name in after if before.get(name) != after[name]}
    # The table is put together again, of 31 rows of which two are new.
    assert changed == {
        "stages/boosting",
        "stages/reweighting",
        "rows/boosting-stagewise",
        "rows/boosting-reweighted",
        "stages/arena",
    }
    compare(path, settings=settings, folder=comparison.folder, quiet=True)


def test_fewer_combinations_train_nothing_else(recipe, tmp_path):
    settings = ["arena.combinations=[experts, average, snapshots]", *ENSEMBLES]
    table = compare(recipe, settings=settings, folder=tmp_path / "run", quiet=True).table
    assert {row.name for row in table.rows} == {
        "expert letters",
        "expert digits",
        ORACLE,
        "probability average",
        "snapshot ensemble",
    }
    made = {place.name for place in (tmp_path / "run" / "stages").iterdir()}
    assert made == {"data", "seed", "expert-letters", "expert-digits", "snapshots", "arena"}


def test_trainings_side_by_side_give_the_same_models(recipe, tmp_path):
    settings = ["arena.combinations=[experts, deep_ensemble]", *ENSEMBLES, "ensembles.training={num_steps: 2}"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of two processes has here at least
    one = compare(recipe, settings=settings, folder=tmp_path / "one", quiet=True)
    torch.set_num_threads(threads)
    two = compare(recipe, settings=settings, folder=tmp_path / "two", jobs=2, quiet=True)
    assert [row.name for row in one.table.rows] == [row.name for row in two.table.rows]
    for file in sorted(one.folder.glob("stages/*/model/model.safetensors")):
        ours, theirs = load_file(file), load_file(two.folder / file.relative_to(one.folder))
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-5, rtol=1e-4)


def test_several_seeds_make_one_table_with_the_spread(recipe, tmp_path):
    settings = ["arena.combinations=[experts, average]", "arena.num_seeds=2"]
    comparison = compare(recipe, settings=settings, folder=tmp_path / "run", quiet=True)
    first, second = comparison.tables
    assert first.domains == second.domains
    means = [table.mean(table.row("probability average")).value for table in comparison.tables]
    row = next(row for row in comparison.table.rows if row.name == "probability average")
    spread = comparison.table.mean(row)
    assert (tmp_path / "run" / "seeds" / "1" / "stages" / "arena").is_dir()
    assert len(set(means)) == 2
    assert (spread.low, spread.high) == (min(means), max(means))


def sentence_of(call, error):
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["arena.combinations=[experts, baging]"],
            "tiny.yaml, arena.combinations: no combination is called 'baging'. Did you mean 'bagging'?",
        ),
        (
            ["arena.combinations=[joint]", "joint.num_steps=0"],
            "tiny.yaml, arena.combinations: 'joint' needs a stage that is left out. Set joint.num_steps above 0, or "
            "leave it out.",
        ),
        (
            ["arena.combinations=[stacked]", "data.validation_fraction=0"],
            "tiny.yaml, arena.combinations: 'stacked' is fitted on validation text, and there is none. Set "
            "data.validation_fraction above 0.",
        ),
    ],
)
def test_a_combination_that_cannot_be_had_is_named(recipe, tmp_path, settings, sentence):
    assert sentence_of(lambda: compare(recipe, settings=settings, folder=tmp_path / "run"), RecipeError) == sentence


def test_ensembles_need_a_seed(tmp_path):
    tokenizer = tiny_tokenizer()
    domains = []
    for seed, name in enumerate(("news", "law")):
        tokenizer.save_pretrained(save_tiny_checkpoint(tmp_path / name, seed=seed))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": f"{name} {n} " * 30}) for n in range(40)))
        domains.append({"name": name, "source": {"type": "jsonl", "path": f"{name}.jsonl"}})
    recipe = {
        "data": {"domains": domains, "sequence_length": 16},
        "experts": {"checkpoints": {"news": "news", "law": "law"}},
        "arena": {"combinations": ["bagging"]},
    }
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert sentence_of(lambda: compare(path, folder=tmp_path / "run"), RecipeError) == (
        "given.yaml, arena.combinations: 'bagging' needs a seed, and these experts are checkpoints. Give "
        "seed.checkpoint, or leave it out."
    )
    table = compare(
        path, settings=["arena.combinations=[experts, weighted]"], folder=tmp_path / "run", quiet=True
    ).table
    assert table.row("weighted average (EM)").training_tokens == 0


def test_a_budget_too_small_for_the_line_up_names_every_row_before_any_training(recipe, tmp_path):
    settings = ["arena.combinations=[seed, average, dense]", "arena.budget.training_tokens=2000"]
    sentence = sentence_of(lambda: compare(recipe, settings=settings, folder=tmp_path / "run", quiet=True), BudgetError)
    assert sentence == (
        f"probability average needs 3.07k training tokens, members' training included, and the budget is 2k; {DENSE} "
        "needs 4.1k training tokens, members' training included, and the budget is 2k. Lower the number of members, "
        "rounds or steps, or raise arena.budget."
    )
    assert not (tmp_path / "run" / "stages").exists()


def test_a_stage_that_is_no_stage_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match=re.escape("until must be one of data, seed, expert-letters")):
        moesaic.run(recipe, folder=tmp_path / "run", until="nowhere", quiet=True)
    with pytest.raises(ValueError, match=r"^jobs must be 1 or more, got 0\.$"):
        moesaic.run(recipe, folder=tmp_path / "run", jobs=0, quiet=True)
