"""The road of summaries that are taken from documents: news leads with what matters, matches end with it."""

import json
import re

import pytest

import moesaic
from moesaic.errors import CheckpointError, DataError, RecipeError
from moesaic.recipe import load_recipe

STAGE = {"num_steps": 40, "batch_size": 8, "learning_rate": 1e-2, "num_warmup_steps": 2}


def write_rows(folder):
    """Two kinds of documents: the first or the last sentence is the summary."""
    for kind in ("news", "sport"):
        rows = []
        for number in range(40):
            matter = f"The {kind} of day {number} is that team {number} won {number} points."
            filler = [f"Nothing was said of {word} {number} then." for word in ("rain", "wind", "snow")]
            sentences = [matter, *filler] if kind == "news" else [f"Sport began on day {number}.", *filler, matter]
            rows.append({"document": " ".join(sentences), "summary": matter})
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    write_rows(folder)
    domains = [{"name": kind, "source": {"type": "jsonl", "path": f"{kind}.jsonl"}} for kind in ("news", "sport")]
    values = {
        "task": {"type": "summarization"},
        "data": {"domains": domains, "validation_fraction": 0.2, "test_fraction": 0.2},
        "model": {"type": "sentence_scorer", "features": ["cues", "words"], "max_words": 60, "hidden_size": 16},
        "experts": {"num_members": 2, "training": STAGE},
        "router": {"training": STAGE | {"learning_rate": 1e-1}},
        "joint": STAGE | {"num_steps": 3},
        "arena": {"num_resamples": 20, "max_examples": 5},
    }
    (folder / "sum.yaml").write_text(json.dumps(values))
    return folder / "sum.yaml"


@pytest.fixture(scope="module")
def finished(recipe):
    return moesaic.run(recipe, folder=recipe.parent / "run", quiet=True)


def test_experts_know_where_their_domain_says_what_matters_and_the_router_knows_the_domain(finished):
    table = finished.task_table
    value = {row.name: {domain: cells["ROUGE-2"].value for domain, cells in row.cells.items()} for row in table.rows}
    assert value["expert news"]["news"] == value["expert sport"]["sport"] == 100
    assert value["expert news"]["sport"] < 100
    assert value["mixture, one expert a source"] == {"news": 100, "sport": 100}
    assert value["lead-3"]["news"] < 100
    assert value["extractive oracle"] == {"news": 100, "sport": 100}
    assert table.router_accuracy == 1
    routed = table.row("mixture, one expert a source")
    assert 0 < routed.active_parameters < routed.total_parameters


def test_every_way_of_combining_is_in_the_table(finished):
    assert [row.name for row in finished.task_table.rows] == [
        "lead-3",
        "extractive oracle",
        "expert news",
        "expert sport",
        "own expert (domain known)",
        "dense, same total pairs",
        "average of the experts",
        "mixture, one expert a source",
        "mixture, trained jointly",
        "expert news, seed 2",
        "ensemble of 2 (news)",
        "expert sport, seed 2",
        "ensemble of 2 (sport)",
    ]


def test_the_exported_model_summarizes_and_says_who_did(finished):
    document = "Sport began. Nothing was said of rain then. The sport of day 50 is that team 50 won 50 points."
    answer = moesaic.generate(finished.folder, document)
    assert str(answer) == ("The sport of day 50 is that team 50 won 50 points.\n\nwritten by sport 100%, news 0%")
    message = (
        f"{finished.model}: this model takes its answers from the text and writes none of its own, so it has no beams "
        "and no temperature. Leave them out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        moesaic.generate(finished.folder, document, num_beams=2)
    assert "library_name: moesaic" in (finished.model / "README.md").read_text()


def test_given_experts_are_taken_as_they_are(finished, recipe, tmp_path):
    paths = {name: finished.folder / "stages" / f"expert-{name}" / "model" for name in ("news", "sport")}
    settings = [f"experts.checkpoints.{name}={path}" for name, path in paths.items()]
    settings += ["experts.num_members=1", "joint.num_steps=0", "experts.training.num_steps=2", "model.features=[cues]"]
    result = moesaic.run(recipe, settings=settings, folder=tmp_path, quiet=True)
    assert result.task_table.row("expert news").training_pairs == 0
    assert result.task_table.row("expert news").cells["news"]["ROUGE-1"].value == 100


def test_a_change_of_the_cut_makes_the_data_anew(finished, recipe):
    plan = moesaic.check(recipe)
    assert plan.problems == () and plan.parameters is None  # how many words there are is known when they are read
    assert moesaic.check(recipe, settings=["model.features=[cues]"]).parameters == 13 * 16 + 16 + 16 + 1
    written = (finished.folder / "stages" / "data").stat().st_mtime_ns
    moesaic.run(recipe, settings=["model.max_words=20"], folder=finished.folder, until="data", quiet=True)
    assert (finished.folder / "stages" / "data").stat().st_mtime_ns != written


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "task={type: translation}",
            "sum.yaml, model.type: models of the type 'sentence_scorer' cannot do translation, only summarization. Use "
            "encoder_decoder, whose models write.",
        ),
        (
            "decoding.num_beams=2",
            "sum.yaml, decoding: this says nothing to the models of this recipe, of the type 'sentence_scorer'. Leave "
            "it out.",
        ),
        (
            "experts.training.split_probability=0.1",
            "sum.yaml, experts.training.split_probability: this says nothing to the models of this recipe, of the type "
            "'sentence_scorer'. Leave it out.",
        ),
        (
            "experts.training.label_smoothing=0.1",
            "sum.yaml, experts.training.label_smoothing: this says nothing to the models of this recipe, of the type "
            "'sentence_scorer'. Leave it out.",
        ),
        ("model.feature=[cues]", "sum.yaml, model: unknown key 'feature'. Did you mean 'features'?"),
    ],
)
def test_what_does_not_fit_the_kind_of_model_is_refused(recipe, setting, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(recipe, [setting])


def test_experts_of_another_kind_are_refused(recipe, tmp_path):
    (tmp_path / "answerer.json").write_text('{"type": "oracle"}')
    settings = [f"experts.checkpoints.{name}={tmp_path}" for name in ("news", "sport")]
    message = (
        f"{tmp_path}/answerer.json: the kind 'oracle' is not known; there are routed_writing, sentence_scorer, "
        "span_reader, writing."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        moesaic.run(recipe, settings=settings, folder=tmp_path / "run", quiet=True)


def test_documents_that_share_no_word_with_their_summaries_are_refused(recipe, tmp_path):
    write_rows(tmp_path)
    rows = [{"document": f"One {number}.", "summary": "zwei"} for number in range(30)]
    (tmp_path / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sum.yaml").write_text(recipe.read_text())
    message = r"^Domain 'news' has no document to learn from: 0 documents; \d+ left out that share no word with their "
    with pytest.raises(DataError, match=message):
        moesaic.run(tmp_path / "sum.yaml", folder=tmp_path / "run", until="expert-news", quiet=True)
