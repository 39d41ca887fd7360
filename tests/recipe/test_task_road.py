"""The road of a task on two toy language pairs: words of numbers become digits, or letters."""

import json
import re
import shutil
from itertools import islice, product

import pytest

import moesaic
from moesaic.errors import CheckpointError, DataError, RecipeError
from moesaic.members import Seq2SeqLM, load_member
from moesaic.mixture import Mixture
from moesaic.recipe import load_recipe
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import save_tiny_checkpoint

WORDS = {"one": ("1", "a"), "two": ("2", "b"), "three": ("3", "c"), "four": ("4", "d")}
LANGUAGES = ("di", "le")
RECIPE = """\
task: {type: translation}
data:
  domains:
    - {name: digits, source: {type: jsonl, path: di.jsonl}}
    - {name: letters, source: {type: jsonl, path: le.jsonl}, fields: {target_lang: le}}
  vocab_size: 290
  max_source_tokens: 16
  max_target_tokens: 16
  test_fraction: 0.2
model: {hidden_size: 64, intermediate_size: 128, num_encoder_layers: 1, num_decoder_layers: 1, dropout: 0.0}
experts:
  num_members: 2
  training: {num_steps: 150, batch_size: 16, learning_rate: 5e-3, num_warmup_steps: 20, label_smoothing: 0.0}
router: {training: {num_steps: 20, batch_size: 16, learning_rate: 2e-2, num_warmup_steps: 2}}
joint: {num_steps: 3, batch_size: 16, num_warmup_steps: 1}
decoding: {num_beams: 2}
arena: {max_examples: 12, num_resamples: 20}
"""


def write_rows(folder):
    """All sentences of three words in both toy languages; the second file leaves the language to the recipe."""
    for number, language in enumerate(LANGUAGES):
        rows = []
        for words in islice(product(WORDS, repeat=3), 64):
            row = {"source": " ".join(words), "target": " ".join(WORDS[word][number] for word in words)}
            rows.append(row if number else row | {"target_lang": language})
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    write_rows(folder)
    (folder / "toy.yaml").write_text(RECIPE)
    return folder / "toy.yaml"


@pytest.fixture(scope="module")
def finished(recipe):
    return moesaic.run(recipe, folder=recipe.parent / "run", quiet=True)


def test_experts_know_their_own_language_and_the_mixture_asks_the_right_one(finished):
    table = finished.task_table
    # Three words have no 4-grams, hence no BLEU.
    value = {row.name: {domain: cells["chrF++"].value for domain, cells in row.cells.items()} for row in table.rows}
    assert value["expert digits"]["digits"] > 60
    assert value["expert letters"]["letters"] > 60
    assert value["expert digits"]["letters"] < 20
    assert table.router_accuracy == 1
    routed, own = table.row("mixture, one expert a source"), table.row("own expert (domain known)")
    assert value[routed.name] == value[own.name]
    assert routed.active_parameters < routed.total_parameters
    assert table.confusion["digits"] == pytest.approx({"digits": 1, "letters": 0})


def test_every_way_of_combining_is_in_the_table(finished):
    assert [row.name for row in finished.task_table.rows] == [
        "expert digits",
        "expert letters",
        "own expert (domain known)",
        "dense, same total pairs",
        "average of the experts",
        "mixture, one expert a source",
        "mixture, trained jointly",
        "expert digits, seed 2",
        "ensemble of 2 (digits)",
        "expert letters, seed 2",
        "ensemble of 2 (letters)",
    ]
    assert {row.training_pairs for row in finished.task_table.rows} == {150 * 16, 150 * 16 * 2, 303 * 16}
    assert finished.task_table.row("ensemble of 2 (digits)").cells.keys() == {"digits"}
    assert finished.task_table.signatures["BLEU, di"].startswith("nrefs:1|case:mixed")
    assert "| sources of | digits | letters |" in (finished.folder / "stages/arena/table.md").read_text()


def test_a_finished_run_is_not_done_again_and_a_change_does_only_what_depends_on_it(finished, recipe):
    written = {path: path.stat().st_mtime_ns for path in (finished.folder / "stages").iterdir()}
    moesaic.run(recipe, folder=finished.folder, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in (finished.folder / "stages").iterdir()} == written
    other = moesaic.run(recipe, settings=["decoding.num_beams=1"], folder=finished.folder, quiet=True)
    again = {path for path in (finished.folder / "stages").iterdir() if path.stat().st_mtime_ns != written[path]}
    assert {path.name for path in again} == {"arena"}
    assert other.task_table.rows[0].name == "expert digits"


def test_data_that_moved_is_the_same_data(finished, tmp_path):
    write_rows(tmp_path)
    (tmp_path / "di.jsonl").rename(tmp_path / "numbers.jsonl")
    (tmp_path / "toy.yaml").write_text(RECIPE.replace("path: di.jsonl", "path: numbers.jsonl"))
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    # The arena is left out: a test before this one may have asked for other answers.
    stages = [path for path in (folder / "stages").iterdir() if path.name != "arena"]
    written = [path.stat().st_ino for path in stages]
    moesaic.run(tmp_path / "toy.yaml", folder=folder, quiet=True)
    assert [path.stat().st_ino for path in stages] == written


def test_the_exported_model_knows_its_task(finished):
    answer = moesaic.generate(finished.folder, "four one two", fields={"target_lang": "di"}, num_beams=2)
    assert answer.shares == {"digits": 1, "letters": 0}
    assert re.fullmatch(r"[\d ]+\n\nwritten by digits 100%, letters 0%", str(answer))
    member = load_member(finished.model)
    assert isinstance(member, Seq2SeqLM) and isinstance(member.network, Seq2SeqMixture)
    message = r"^the prompt: target_lang is 'xx', which no member was trained to write; there are di, le\.$"
    with pytest.raises(DataError, match=message):
        moesaic.generate(finished.folder, "one", fields={"target_lang": "xx"})


def test_models_train_side_by_side_and_say_which_they_are(recipe, tmp_path, capfd):
    settings = ["experts.training.num_steps=2", "experts.num_members=1", "router.training.num_steps=2"]
    result = moesaic.run(recipe, settings=[*settings, "joint.num_steps=0"], folder=tmp_path, jobs=2)
    assert len(result.task_table.rows) == 6
    printed = capfd.readouterr().out
    for stage in ("expert-digits", "expert-letters"):
        assert re.search(rf"^  {stage}: step 2/2  loss \d\.\d+  [\d,]+ tokens/s  0 s left$", printed, re.MULTILINE)
    changed = [*settings, "joint.num_steps=0", "experts.training.num_steps=3"]
    moesaic.run(recipe, settings=changed, folder=tmp_path, until="dense", jobs=2, quiet=True)
    assert capfd.readouterr().out == ""


def test_words_can_be_cut_anew_at_each_reading(recipe, tmp_path):
    settings = ["experts.training.num_steps=2"]
    losses = {}
    for probability in (0, 0.5):
        folder = tmp_path / str(probability)
        setting = f"experts.training.split_probability={probability}"
        moesaic.run(recipe, settings=[*settings, setting], folder=folder, until="expert-digits", quiet=True)
        history = json.loads((folder / "stages/expert-digits/history.json").read_text())
        losses[probability] = history[0]["loss"]
    assert losses[0] != losses[0.5]


def test_an_ensemble_of_one_domain_alone(recipe, tmp_path):
    settings = ["experts.training.num_steps=2", "router.training.num_steps=2", "joint.num_steps=0"]
    settings.append("experts.num_members={letters: 2}")
    assert moesaic.check(recipe, settings=settings).pairs["expert-letters"] == 2 * 2 * 16
    result = moesaic.run(recipe, settings=settings, folder=tmp_path, quiet=True)
    assert [row.name for row in result.task_table.rows][-2:] == ["expert letters, seed 2", "ensemble of 2 (letters)"]
    assert (tmp_path / "stages" / "expert-letters-2").exists()
    assert not (tmp_path / "stages" / "expert-digits-2").exists()


def test_given_experts_are_taken_as_they_are(finished, recipe, tmp_path):
    paths = {name: finished.folder / "stages" / f"expert-{name}" / "model" for name in ("digits", "letters")}
    settings = [f"experts.checkpoints.{name}={path}" for name, path in paths.items()]
    settings += ["experts.num_members=1", "joint.num_steps=0", "experts.training.num_steps=2"]
    result = moesaic.run(recipe, settings=settings, folder=tmp_path, quiet=True)
    assert not (tmp_path / "stages" / "expert-digits").exists()
    assert result.task_table.row("expert digits").training_pairs == 0
    assert result.task_table.row("expert digits").cells["digits"]["chrF++"].value > 60


def test_a_model_that_cannot_write_to_a_source_is_refused_before_any_work(recipe, tmp_path):
    save_tiny_checkpoint(tmp_path / "llama")
    settings = [f"experts.checkpoints.{name}={tmp_path / 'llama'}" for name in ("digits", "letters")]
    message = (
        f"{tmp_path / 'llama'}: llama has no encoder and decoder, so it cannot write an answer to a source. Give an "
        "encoder-decoder model, such as Marian, BART or T5, or set model.type to causal."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        moesaic.run(recipe, settings=settings, folder=tmp_path / "run", quiet=True)
    assert moesaic.check(recipe, settings=settings).problems == tuple(
        f"experts.checkpoints, {name}: {message}" for name in ("digits", "letters")
    )


def test_the_metrics_of_the_table_can_be_chosen(finished, recipe):
    result = moesaic.run(recipe, settings=["arena.metrics=[chrF++]"], folder=finished.folder, quiet=True)
    assert result.task_table.metrics == ("chrF++",)
    message = (
        "toy.yaml, arena.metrics: translation is not measured by 'ROUGE-1', but by BLEU, BLEU lower-cased, chrF++."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(recipe, ["arena.metrics=[ROUGE-1]"])


def test_the_kinds_of_table_are_told_apart(finished):
    message = rf"^{re.escape(str(finished.folder))}: this is the run of a task; see Run\.task_table\.$"
    with pytest.raises(ValueError, match=message):
        _ = finished.table


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "one", "target_lang": "di"}, "line 1: there is no field 'target'; there are source, target_lang."),
        (
            {"source": "one", "target": " ", "target_lang": "di"},
            "line 1: the field 'target' is empty. Fill it in, or leave the row out.",
        ),
        (
            {"source": 5, "target": "1", "target_lang": "di"},
            "line 1: the field 'source' must be text, got 5.",
        ),
        (
            {"source": "one", "target": "1", "target_lang": "xx"},
            "line 1: target_lang is 'xx', which no member was trained to write; there are di, le.",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(recipe, tmp_path, row, message):
    write_rows(tmp_path)
    (tmp_path / "di.jsonl").write_text(json.dumps(row))
    (tmp_path / "toy.yaml").write_text(recipe.read_text())
    settings = ["task.target_languages=[di, le]"]
    with pytest.raises(DataError, match=rf"^{re.escape(f'{tmp_path}/di.jsonl, {message}')}$"):
        moesaic.run(tmp_path / "toy.yaml", settings=settings, folder=tmp_path / "run", quiet=True)


def test_a_source_without_rows_is_refused(recipe, tmp_path):
    write_rows(tmp_path)
    (tmp_path / "toy.yaml").write_text(recipe.read_text())
    settings = [f"data.domains.0.source={{type: folder, path: {tmp_path}, pattern: '*.yaml'}}"]
    message = r"and a task needs rows with fields\. Use a source of the type jsonl, parquet or hub\.$"
    with pytest.raises(DataError, match=message):
        moesaic.run(tmp_path / "toy.yaml", settings=settings, folder=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "task.type=translaton",
            "toy.yaml, task: {'type': 'translaton'} (a mapping) does not fit: input tag 'translaton' found using "
            "'type' does not match any of the expected tags: 'translation', 'summarization', "
            "'question_answering', 'multiple_choice', 'chat'.",
        ),
        (
            "task.template=to {langage}",
            "toy.yaml, task.template must have {source}, and may have {language}, got 'to {langage}'. Write {{ and }} "
            "for braces that are to stand there.",
        ),
        ("joint.num_step=3", "toy.yaml, joint: unknown key 'num_step'. Did you mean 'num_steps'?"),
        (
            "experts.checkpoints.digit=here",
            "toy.yaml, experts.checkpoints: names digit, but the domains are digits, letters. Give one checkpoint a "
            "domain, or none.",
        ),
        (
            "experts.num_members={digit: 2}",
            "toy.yaml, experts.num_members: names digit, but the domains are digits, letters.",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_says_where(recipe, setting, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(recipe, [setting])


def test_what_a_recipe_needs_is_said_before_any_work(finished, recipe):
    plan = moesaic.check(recipe)
    assert plan.problems == ()
    assert plan.pairs == {
        "expert-digits": 2 * 150 * 16,
        "expert-letters": 2 * 150 * 16,
        "dense": 303 * 16,
        "router": 20 * 16,
        "joint": 3 * 16,
    }
    expert = load_member(finished.folder / "stages" / "expert-digits" / "model").network
    missing = 290 - expert.config.vocab_size  # tokens that so few words do not give
    assert plan.parameters == sum(parameter.numel() for parameter in expert.parameters()) + 64 * missing
    assert "nothing stands in the way" in str(plan)


def test_all_that_is_wrong_with_the_rows_is_said_before_any_work(recipe):
    plan = moesaic.check(recipe, settings=["data.domains.1.fields={}", "data.domains.0.source.path=no.jsonl"])
    assert [problem.split(": ", 1)[0] for problem in plan.problems] == [
        "data.domains, digits",
        "data.domains, letters",
    ]
    assert "there is no field 'target_lang'; there are source, target." in str(plan)


def test_the_arena_of_language_models_refuses_a_task(recipe):
    message = r"^toy\.yaml names a task, whose systems are all measured by the run itself: moesaic run .*toy\.yaml\.$"
    with pytest.raises(RecipeError, match=message):
        moesaic.compare(recipe)


def test_summaries_go_the_same_road(tmp_path):
    kinds = {"news": ("It rained in", "Rain in"), "sport": ("They played at", "Match at")}
    for kind, (begins, answer) in kinds.items():
        rows = []
        for number in range(40):
            place = f"town {number}"
            rows.append(
                {
                    "document": f"{begins} {place}. Then more. And more. At last it ended.",
                    "summary": f"{answer} {place}.",
                }
            )
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    domains = [{"name": kind, "source": {"type": "jsonl", "path": f"{kind}.jsonl"}} for kind in kinds]
    stages = {"num_steps": 2, "batch_size": 8}
    recipe = {
        "task": {"type": "summarization"},
        "data": {"domains": domains, "vocab_size": 300, "test_fraction": 0.2},
        "model": {"hidden_size": 32, "intermediate_size": 64, "num_encoder_layers": 1, "num_decoder_layers": 1},
        "experts": {"training": stages},
        "router": {"training": stages},
        "decoding": {"num_beams": 1},
        "arena": {"num_resamples": 20, "max_examples": 4},
    }
    (tmp_path / "sum.yaml").write_text(json.dumps(recipe))
    table = moesaic.run(tmp_path / "sum.yaml", folder=tmp_path / "run", quiet=True).task_table
    assert [row.name for row in table.rows[:4]] == ["lead-3", "extractive oracle", "expert news", "expert sport"]
    assert table.metrics == ("ROUGE-1", "ROUGE-2", "ROUGE-Lsum")
    assert table.mean(table.row("extractive oracle")) >= table.mean(table.row("lead-3")) > 0


def test_causal_members_go_the_same_road(recipe, tmp_path):
    shape = "{type: causal, hidden_size: 64, intermediate_size: 128, num_layers: 1}"
    settings = [f"model={shape}", "experts.num_members=1", "experts.training.num_steps=250"]
    result = moesaic.run(recipe, settings=settings, folder=tmp_path, quiet=True)
    table = result.task_table
    assert table.row("expert digits").cells["digits"]["chrF++"].value > 60
    routed, own = table.row("mixture, one expert a source"), table.row("own expert (domain known)")
    assert table.mean(routed, "chrF++") == table.mean(own, "chrF++")
    answer = moesaic.generate(tmp_path, "one two three", fields={"target_lang": "le"})
    assert answer.shares == {"digits": 0, "letters": 1}
    member = load_member(result.model)
    assert isinstance(member.network, Mixture) and not isinstance(member.network, Seq2SeqMixture)
