"""The road of answers that are read in a text: who sang, who danced."""

import json
import re
import shutil
from itertools import product

import pytest
from transformers import AutoTokenizer

import moesaic
from moesaic.errors import CheckpointError, DataError, IncompatibleMembersError, RecipeError
from moesaic.recipe import load_recipe
from moesaic.recipe.task_systems import DENSE
from moesaic.testing import save_tiny_checkpoint

NAMES = ("ann", "ben", "cid", "dan", "eve", "fay", "gus", "hal")
DOMAINS = {"song": "sang", "dance": "danced"}
STAGE = {"num_steps": 60, "batch_size": 16, "learning_rate": 5e-3, "num_warmup_steps": 5, "weight_decay": 0.0}


def write_rows(folder):
    """A pair of people in each text, of which one did what is asked about."""
    for domain, verb in DOMAINS.items():
        rows = [
            {
                "question": f"who {verb} ?",
                "context": f"{first} {verb} . {second} slept .",
                "answers": [first],
                "answer_start": [0],
                "group": NAMES.index(second),
            }
            for first, second in product(NAMES, repeat=2)
            if first != second
        ]
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    write_rows(folder)
    domains = [{"name": name, "source": {"type": "jsonl", "path": f"{name}.jsonl"}} for name in DOMAINS]
    values = {
        "task": {"type": "question_answering"},
        "data": {"domains": domains, "vocab_size": 280, "test_fraction": 0.3, "group_field": "group"},
        "model": {
            "type": "span_reader",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "dropout": 0.0,
            "max_length": 96,
            "stride": 4,
        },
        "experts": {"training": STAGE},
        "router": {"training": STAGE | {"learning_rate": 1e-1}},
        "joint": STAGE | {"num_steps": 2},
        "arena": {"num_resamples": 20, "max_examples": 10},
    }
    (folder / "qa.yaml").write_text(json.dumps(values))
    return folder / "qa.yaml"


@pytest.fixture(scope="module")
def finished(recipe):
    return moesaic.run(recipe, folder=recipe.parent / "run", quiet=True)


def test_experts_read_answers_and_the_router_knows_the_domain(finished):
    table = finished.task_table
    assert table.metrics == ("F1", "exact match")
    value = {row.name: {domain: cells["F1"].value for domain, cells in row.cells.items()} for row in table.rows}
    assert value["expert song"]["song"] > 80
    assert value["expert dance"]["dance"] > 80
    assert value["mixture, one expert a source"] == value["own expert (domain known)"]
    assert table.router_accuracy == 1
    assert [row.name for row in table.rows[2:]] == [
        "own expert (domain known)",
        "dense, same total pairs",
        "average of the experts",
        "mixture, one expert a source",
        "mixture, trained jointly",
    ]


def test_rows_of_a_group_stand_in_one_split(finished):
    folder = finished.folder / "stages" / "data"
    sleepers = {}
    for split in ("train", "test"):
        lines = "".join((folder / f"{domain}.{split}.jsonl").read_text() for domain in DOMAINS)
        sleepers[split] = set(re.findall(r"(\w+) slept", lines))
    assert sleepers["train"] and sleepers["test"]
    assert not sleepers["train"] & sleepers["test"]


def test_the_exported_model_answers_and_says_who_did(finished):
    answer = moesaic.generate(finished.folder, "who danced ?", fields={"context": "gus danced . ann slept ."})
    assert answer.shares == {"song": 0, "dance": 1}
    assert answer.text in "gus danced . ann slept ."
    assert answer.prompt.endswith("Question: who danced ?\nAnswer:")
    message = r"^Question 0 \('who danced \?'\) has no context to read an answer in\. "
    with pytest.raises(DataError, match=message):
        moesaic.generate(finished.folder, "who danced ?")


def test_models_start_from_an_encoder_and_from_a_seed(finished, recipe, tmp_path):
    trained = finished.folder / "stages" / "dense" / "model"
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for file in (*(trained / "reader").iterdir(), *(trained / "tokenizer").iterdir()):
        (encoder / file.name).write_bytes(file.read_bytes())
    values = json.loads(recipe.read_text())
    values["model"] = {"type": "span_reader", "encoder": str(encoder), "max_length": 96, "stride": 4}
    del values["data"]["vocab_size"]
    for stage in (values["experts"]["training"], values["router"]["training"], values["joint"]):
        stage["num_steps"] = 1
    values["seed"] = STAGE | {"num_steps": 2}
    write_rows(tmp_path)
    (tmp_path / "qa.yaml").write_text(json.dumps(values))
    result = moesaic.run(tmp_path / "qa.yaml", folder=tmp_path / "run", quiet=True)
    table = result.task_table
    assert table.row("expert song").cells["song"]["F1"].value > 80
    # Two steps of the seed, and one of each of the two experts; the dense model has the joint step, too.
    assert [table.row(name).training_pairs for name in ("expert song", "average of the experts", DENSE)] == [48, 64, 80]
    assert (result.folder / "stages" / "seed" / "model" / "reader").is_dir()
    message = (
        "qa.yaml, model.hidden_size: this says nothing to the models of this recipe, of the type 'span_reader'. Leave "
        "it out."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(tmp_path / "qa.yaml", ["model.hidden_size=8"])
    message = (
        "qa.yaml, seed: the experts are checkpoints, so none of them would start at the seed. Leave out seed or "
        "experts.checkpoints."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(tmp_path / "qa.yaml", [f"experts.checkpoints.{domain}={trained}" for domain in DOMAINS])


def test_what_a_recipe_needs_is_said_before_any_work(recipe):
    plan = moesaic.check(recipe)
    assert plan.problems == () and plan.parameters > 0


def test_questions_whose_answers_are_not_in_their_texts_are_refused_where_there_is_nothing_else(recipe, tmp_path):
    write_rows(tmp_path)
    rows = [
        {"question": f"who {number} ?", "context": "nobody .", "answers": ["ann"], "group": number}
        for number in range(30)
    ]
    (tmp_path / "song.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qa.yaml").write_text(recipe.read_text())
    plan = moesaic.check(tmp_path / "qa.yaml")
    assert plan.problems == ()
    assert "note: data.domains, song, first rows of source: 30 questions; the answers to 30 are not in" in str(plan)
    with pytest.raises(DataError) as error:
        moesaic.run(tmp_path / "qa.yaml", folder=tmp_path / "run", until="expert-song", quiet=True)
    assert re.fullmatch(
        r"Domain 'song' has no question to learn from: (\d+) questions; the answers to \1 are not in their context; 0 "
        r"have no answer\. Give rows whose answers are spans of their context, or use `model: \{type: "
        r"encoder_decoder\}`, whose models write\.",
        str(error.value),
    )


def test_rows_without_their_group_are_refused(recipe, tmp_path):
    write_rows(tmp_path)
    (tmp_path / "song.jsonl").write_text('{"question": "who ?", "context": "ann .", "answers": ["ann"]}')
    (tmp_path / "qa.yaml").write_text(recipe.read_text())
    message = (
        f"{tmp_path}/song.jsonl, line 1: there is no field 'group', by which rows are kept together; there are "
        "question, context, answers."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        moesaic.run(tmp_path / "qa.yaml", folder=tmp_path / "run", until="data", quiet=True)


def test_a_domain_of_one_group_has_nothing_to_be_measured_on(recipe, tmp_path):
    write_rows(tmp_path)
    row = {"question": "who ?", "context": "ann .", "answers": ["ann"], "group": 0}
    (tmp_path / "song.jsonl").write_text(json.dumps(row))
    (tmp_path / "qa.yaml").write_text(recipe.read_text())
    message = (
        r"^Domain 'song' has no rows in the split '(train|test)'\. Change data\.test_fraction or "
        r"data\.validation_fraction, or give the split a source of its own\.$"
    )
    with pytest.raises(DataError, match=message):
        moesaic.run(tmp_path / "qa.yaml", folder=tmp_path / "run", until="data", quiet=True)


def test_experts_of_another_kind_are_refused_before_any_work(recipe, tmp_path):
    save_tiny_checkpoint(tmp_path / "llama")
    settings = [f"experts.checkpoints.{name}={tmp_path / 'llama'}" for name in DOMAINS]
    message = (
        f"{tmp_path / 'llama'}: this is a model of the kind 'writing', and those of this recipe are of the kind "
        "'span_reader'. Give what a recipe with `model: {type: span_reader}` has trained."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        moesaic.run(recipe, settings=settings, folder=tmp_path / "run", quiet=True)
    assert moesaic.check(recipe, settings=settings).problems[0] == f"experts.checkpoints, song: {message}"


def test_experts_that_read_other_tokens_are_refused(finished, recipe, tmp_path):
    trained = finished.folder / "stages" / "expert-song" / "model"
    shutil.copytree(trained, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(trained / "tokenizer")
    tokenizer.add_tokens(["jazz"])
    tokenizer.save_pretrained(tmp_path / "other" / "tokenizer")
    settings = [f"experts.checkpoints.song={trained}", f"experts.checkpoints.dance={tmp_path / 'other'}"]
    settings += ["experts.training.num_steps=1", "joint.num_steps=0"]
    message = (
        "dance and song have different tokens, and readers can only be combined that read the same ones. Train them "
        "from one tokenizer."
    )
    with pytest.raises(IncompatibleMembersError, match=f"^{re.escape(message)}$"):
        moesaic.run(recipe, settings=settings, folder=tmp_path / "run", quiet=True)
