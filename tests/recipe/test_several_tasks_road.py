"""The road of three toy tasks in one recipe: words become digits, reports their place, questions their answer."""

import json
import re
import shutil
from itertools import islice, product

import pytest
from typer.testing import CliRunner

import moesaic
from moesaic.cli import app
from moesaic.data import TokenizedPairs
from moesaic.errors import RecipeError
from moesaic.members import load_member, load_tokenizer
from moesaic.recipe import load_recipe
from moesaic.tasks import GENERATIVE_TASKS, TaskSet

WORDS = {"one": ("1", "a"), "two": ("2", "b"), "three": ("3", "c"), "four": ("4", "d")}
RECIPE = """\
tasks:
  translate: {type: translation}
  summarize: {type: summarization}
  answer: {type: question_answering, template: "{question} {context}"}
data:
  domains:
    - {name: digits, task: translate, source: {type: jsonl, path: digits.jsonl}, fields: {target_lang: di}}
    - {name: letters, task: translate, source: {type: jsonl, path: letters.jsonl}, fields: {target_lang: le}}
    - {name: reports, task: summarize, source: {type: jsonl, path: reports.jsonl}}
    - {name: riddles, task: answer, source: {type: jsonl, path: riddles.jsonl}, group_field: about}
  vocab_size: 300
  max_source_tokens: 32
  max_target_tokens: 8
  test_fraction: 0.2
model: {hidden_size: 32, intermediate_size: 64, num_encoder_layers: 1, num_decoder_layers: 1, dropout: 0.0}
experts: {training: {num_steps: 6, batch_size: 16, learning_rate: 5e-3, num_warmup_steps: 2}}
balance: {temperature: 2, loss: tasks}
router: {training: {num_steps: 30, batch_size: 16, learning_rate: 3e-2, num_warmup_steps: 2}}
joint: {num_steps: 3, batch_size: 16, num_warmup_steps: 1}
decoding: {num_beams: 1}
arena: {max_examples: 4, num_resamples: 5}
"""


def write_rows(folder):
    """Rows of the three tasks, of which the first has most."""
    digits, letters = (
        [
            {"source": " ".join(words), "target": " ".join(WORDS[word][language] for word in words)}
            for words in islice(product(WORDS, repeat=3), 64)
        ]
        for language in range(2)
    )
    reports = [
        {"document": f"It rained in town {number}. Then more. And more. It ended.", "summary": f"Rain in {number}."}
        for number in range(40)
    ]
    riddles = [
        {
            "question": f"Who sang {number}?",
            "context": f"Ann {number} sang.",
            "answers": [f"Ann {number}"],
            "about": "a",
        }
        | {"about": str(number % 8)}
        for number in range(40)
    ]
    for name, rows in {"digits": digits, "letters": letters, "reports": reports, "riddles": riddles}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    write_rows(folder)
    (folder / "toys.yaml").write_text(RECIPE)
    return folder / "toys.yaml"


@pytest.fixture(scope="module")
def finished(recipe):
    return moesaic.run(recipe, folder=recipe.parent / "run", quiet=True)


def test_one_router_reads_what_is_asked_and_each_domain_is_scored_by_its_own_task(finished):
    table = finished.task_table
    assert table.router_accuracy == 1
    assert {domain: table.metrics_of(domain) for domain in table.domains} == {
        "digits": ("BLEU", "BLEU lower-cased", "chrF++"),
        "letters": ("BLEU", "BLEU lower-cased", "chrF++"),
        "reports": ("ROUGE-1", "ROUGE-2", "ROUGE-Lsum"),
        "riddles": ("F1", "exact match"),
    }
    dense = table.row("dense, same total pairs")
    assert {domain: tuple(cells) for domain, cells in dense.cells.items()} == table.domain_metrics
    assert table.row("lead-3").cells.keys() == {"reports"}


def test_the_table_says_who_helps_whom(finished):
    table = finished.task_table
    own = table.row("own expert (domain known)")
    assert [table.change(own, domain) for domain in table.domains] == [0, 0, 0, 0]
    dense = table.row("dense, same total pairs")
    expected = dense.cells["riddles"]["F1"].value - table.row("expert riddles").cells["riddles"]["F1"].value
    assert table.change(dense, "riddles") == expected
    sections = {section.title: [column.heading for column in section.columns] for section in table.grid().sections}
    scores = ["digits (BLEU)", "letters (BLEU)", "reports (ROUGE-1)", "riddles (F1)"]
    assert sections == {
        "score": scores,
        "change from the own expert": ["mean", *scores],
        "change from the model of the task alone": scores[:2],
        "other metrics": [
            "digits (BLEU lower-cased)",
            "digits (chrF++)",
            "letters (BLEU lower-cased)",
            "letters (chrF++)",
            "reports (ROUGE-2)",
            "reports (ROUGE-Lsum)",
            "riddles (exact match)",
        ],
        "cost": ["total", "active", "pairs read", "seconds"],
    }


def test_a_task_of_several_domains_has_a_model_that_knows_no_other_task(finished, recipe):
    table = finished.task_table
    alone = table.row("dense, translate alone")
    assert (alone.cells.keys(), alone.training_pairs) == ({"digits", "letters"}, 2 * 6 * 16)
    assert {domain: reference.name for domain, reference in table.task_references.items()} == {
        "digits": alone.name,
        "letters": alone.name,
    }
    others = {row.name for row in table.rows if "digits" in row.cells} - {alone.name, "own expert (domain known)"}
    assert table.task_references["digits"].p_values.keys() == others
    assert moesaic.check(recipe).pairs["dense-translate"] == 2 * 6 * 16


def test_sources_begin_with_their_tasks_tag_which_is_one_token(finished):
    data = finished.folder / "stages" / "data"
    [first, *_] = (data / "riddles.train.jsonl").read_text().splitlines()
    assert json.loads(first)["source"].startswith("[answer] Who sang ")
    tokens = {
        name: TokenizedPairs.load(data / f"{name}.train.safetensors").sources()[0][0].item()
        for name in ("digits", "letters", "reports", "riddles")
    }
    assert tokens == {"digits": 2, "letters": 2, "reports": 3, "riddles": 4}  # after padding and the end of text


def test_a_finished_model_is_asked_for_one_of_its_tasks(finished):
    command = ["generate", str(finished.folder), "Who sang 3?", "--task", "answer", "--field", "context=Ann 3 sang."]
    output = CliRunner().invoke(app, [*command, "--max-new-tokens", "8"]).output
    assert output.endswith("written by riddles 100%, digits 0%, letters 0%, reports 0%\n")
    answer = moesaic.generate(
        finished.folder, "one two", task="translate", fields={"target_lang": "di"}, max_new_tokens=8
    )
    assert answer.prompt == "[translate] <2di> one two"
    assert answer.shares == {"digits": 1, "letters": 0, "reports": 0, "riddles": 0}
    card = (finished.model / "README.md").read_text()
    assert "tags: [moesaic, mixture-of-experts, translation, summarization, question_answering]" in card
    assert 'moesaic.generate(".", "...", task="translate", fields={})' in card


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("sing", "there is no task 'sing'; there are translate, summarize, answer. Name one of these."),
        (
            None,
            "this model does several tasks, translate, summarize, answer, and none of them was named. Name one.",
        ),
    ],
)
def test_a_task_that_a_model_does_not_do_is_refused(finished, task, message):
    place = finished.folder / "model"
    with pytest.raises(ValueError, match=f"^{re.escape(f'{place}: {message}')}$"):
        moesaic.generate(finished.folder, "one", task=task)


def test_a_model_of_one_task_needs_no_name_for_it():
    message = (
        "there is no task 'answer': this model does one task, translation, which needs no name. Leave the task out."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TaskSet({"": GENERATIVE_TASKS["translation"]()}).name_of("answer")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "data.domains.0.task=null",
            "data.domains, digits: it names no task. Add task: and one of translate, summarize, answer.",
        ),
        (
            "data.domains.0.task=sing",
            "data.domains, digits: there is no task 'sing'; there are translate, summarize, answer.",
        ),
        (
            "tasks.other={type: translation}",
            "tasks.other: no domain names this task. Give it a domain, or leave it out.",
        ),
        (
            "task={type: translation}",
            "tasks: there is a task for all domains beside it. Give either task, or tasks of which each domain names "
            "one.",
        ),
        (
            "model={type: span_reader}",
            "model.type: models of the type 'span_reader' cannot do translation, only question_answering. Use "
            "encoder_decoder, whose models write.",
        ),
        (
            "arena.metrics=[BLEU, F1]",
            "arena.metrics: summarization is measured by none of BLEU, F1. Add one of ROUGE-1, ROUGE-2, ROUGE-Lsum.",
        ),
        (
            "arena.metrics=[BLEU, METEOR]",
            "arena.metrics: translation is not measured by 'METEOR', but by BLEU, BLEU lower-cased, chrF++; "
            "summarization is not measured by 'METEOR', but by ROUGE-1, ROUGE-2, ROUGE-Lsum; question_answering is "
            "not measured by 'METEOR', but by F1, exact match.",
        ),
        (
            "tasks.summarize.chat_template=false",
            "tasks: some tasks read their tokenizer's chat template and some do not, and one tokenizer serves them "
            "all. Give them the same chat_template.",
        ),
        (
            "tasks.summarize.documentfield=text",
            "tasks.summarize: unknown key 'documentfield'. Did you mean 'document_field'?",
        ),
    ],
)
def test_tasks_that_do_not_fit_are_refused(recipe, setting, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(f'toys.yaml, {message}')}$"):
        load_recipe(recipe, [setting])


def test_each_task_may_have_a_router_of_its_own(finished, recipe, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    result = moesaic.run(recipe, settings=["router.per_task=true"], folder=folder, quiet=True)
    combiner = load_member(result.model).network.combiner
    # Two target languages, and the tasks that have none.
    names = load_tokenizer(result.model).convert_ids_to_tokens(combiner.task_tokens)
    assert names == ["<2di>", "<2le>", "[summarize]", "[answer]"]
    assert combiner.router.in_features == 5 * (combiner.router_width + 1)
    assert result.task_table.router_accuracy == 1


def test_a_domain_names_no_task_where_there_is_one_for_all(recipe, tmp_path):
    (tmp_path / "one.yaml").write_text("task: {type: translation}\n" + RECIPE[RECIPE.index("data:") :])
    message = (
        "one.yaml, data.domains, digits: it names the task 'translate', and the recipe has one task for all domains. "
        "Leave the name out, or give tasks in the place of task."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(tmp_path / "one.yaml")
    without = [f"data.domains.{number}.task=null" for number in range(4)]
    for key, setting in {"router.per_task": "router.per_task=true", "balance.loss": "balance.loss=tasks"}.items():
        message = f"one.yaml, {key}: the recipe has one task. Leave it out, or give tasks in the place of task."
        with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
            load_recipe(tmp_path / "one.yaml", [*without, "balance.loss=tokens", setting])
