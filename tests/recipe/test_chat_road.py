"""The road of the task chat, with tiny causal models, and its chat template in other tasks."""

import io
import json
import re
import sys
from itertools import product

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import moesaic
from moesaic.cli import main
from moesaic.errors import CheckpointError, DataError, RecipeError
from moesaic.recipe import load_recipe

RECIPE = """\
task: {type: chat, system: Count.}
data:
  domains:
    - {name: digits, source: {type: jsonl, path: digits.jsonl}}
    - {name: letters, source: {type: jsonl, path: letters.jsonl}}
  vocab_size: 290
  max_source_tokens: 64
  max_target_tokens: 16
  test_fraction: 0.2
model: {type: causal, hidden_size: 32, intermediate_size: 64, num_layers: 1}
experts: {training: {num_steps: 40, batch_size: 16, learning_rate: 5e-3, num_warmup_steps: 5, label_smoothing: 0.0}}
router: {training: {num_steps: 20, batch_size: 16, learning_rate: 2e-2, num_warmup_steps: 2}}
decoding: {num_beams: 1, temperature: 0.5, top_k: 20, top_p: 0.9}
arena: {max_examples: 8, num_resamples: 20}
"""
DIGITS, LETTERS = {"one": "1", "two": "2", "three": "3"}, {"alpha": "a", "beta": "b", "gamma": "c"}


def write_rows(folder):
    """Conversations of two turns in the first domain, prompts and responses in the second."""
    digits, letters = [], []
    for three in product(range(3), repeat=3):
        said, counted = ([list(side)[place] for place in three] for side in (DIGITS, DIGITS.values()))
        hello = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "go on"}]
        turns = [{"role": "user", "content": " ".join(said)}, {"role": "assistant", "content": " ".join(counted)}]
        digits.append({"messages": [*hello, *turns]})
        said, counted = ([list(side)[place] for place in three] for side in (LETTERS, LETTERS.values()))
        letters.append({"prompt": " ".join(said), "response": " ".join(counted)})
    for name, rows in (("digits", digits), ("letters", letters)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    write_rows(folder)
    (folder / "talk.yaml").write_text(RECIPE)
    return folder / "talk.yaml"


@pytest.fixture(scope="module")
def finished(recipe):
    return moesaic.run(recipe, folder=recipe.parent / "run", quiet=True)


def test_experts_find_the_answers_of_their_own_domain_likelier(finished):
    table = finished.task_table
    assert table.metrics == ("chrF++", "ROUGE-Lsum", "log-likelihood")
    value = {
        row.name: {domain: cells["log-likelihood"].value for domain, cells in row.cells.items()} for row in table.rows
    }
    assert value["expert digits"]["digits"] > value["expert letters"]["digits"]
    assert value["expert letters"]["letters"] > value["expert digits"]["letters"]
    assert table.router_accuracy == 1
    assert value["mixture, one expert a source"] == pytest.approx(value["own expert (domain known)"], abs=1e-5)


def test_the_log_likelihood_is_that_of_the_answer_and_what_ends_it(finished):
    folder = finished.folder / "stages" / "expert-letters" / "model"
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lines = (finished.folder / "stages" / "data" / "letters.test.jsonl").read_text().splitlines()
    total, count = 0.0, 0
    for pair in map(json.loads, lines):
        prompt = tokenizer.apply_chat_template(pair["messages"], add_generation_prompt=True)["input_ids"]
        answer = [*tokenizer(pair["references"][0])["input_ids"]]  # this tokenizer ends each text itself
        logits = network(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        total, count = total + logits[range(len(answer)), answer].sum().item(), count + len(answer)
    measured = finished.task_table.row("expert letters").cells["letters"]["log-likelihood"]
    assert measured.value == pytest.approx(total / count, abs=1e-4)


def test_a_saved_expert_is_a_chat_model_of_plain_transformers(finished):
    folder = finished.folder / "stages" / "expert-letters" / "model"
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = [{"role": "system", "content": "Count."}, {"role": "user", "content": "alpha beta gamma"}]
    inputs = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(inputs["input_ids"][0]) == "<|system|>Count.<eos><|user|>alpha beta gamma<eos><|assistant|>"
    written = network.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = moesaic.generate(folder, "alpha beta gamma", fields={"system": "Count."}, max_new_tokens=16)
    assert answer.text == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_a_conversation_goes_on_with_what_was_said(finished, monkeypatch, capsys):
    asked = []
    turns = (turn for turn in ("hello", "one two three"))
    for answer in moesaic.chat(finished.folder, turns, max_new_tokens=8):
        asked.append(answer.prompt)
        assert answer.shares.keys() == {"digits", "letters"}
    assert asked == ["hello", "one two three"]
    monkeypatch.setattr(sys, "argv", ["moesaic", "chat", str(finished.folder), "--max-new-tokens", "8"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\none two three\n"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("written by ") == 2


def test_all_turns_of_the_assistant_are_learned_and_the_last_is_measured(recipe, tmp_path):
    moesaic.run(recipe, settings=["task.learned_turns=all"], folder=tmp_path, until="data", quiet=True)
    pairs = {
        split: [json.loads(line) for line in (tmp_path / f"stages/data/digits.{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    greetings = [pair for pair in pairs["train"] if pair["references"] == ["go on"]]
    assert greetings[0]["source"] == "system: Count.\nuser: hello"
    assert 2 * len(greetings) == len(pairs["train"])
    assert all(len(pair["messages"]) == 4 for pair in pairs["test"])


def test_other_tasks_read_their_source_in_a_chat_template(finished, recipe, tmp_path, capsys):
    rows = [
        {"source": f"{a} {b}", "target": f"{DIGITS[a]} {DIGITS[b]}", "target_lang": "di"}
        for a in DIGITS
        for b in DIGITS
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(text)
    values = RECIPE.replace("{type: chat, system: Count.}", "{type: translation, system: Translate.}")
    values = re.sub(r"\w+\.jsonl", "rows.jsonl", values).replace("test_fraction: 0.2", "test_fraction: 0.4")
    (tmp_path / "translate.yaml").write_text(values)
    places = {name: finished.folder / "stages" / f"expert-{name}" / "model" for name in ("digits", "letters")}
    settings = [f"experts.checkpoints.{name}={place}" for name, place in places.items()]
    quick = ["experts.training.num_steps=1", "experts.training.batch_size=2", "router.training.num_steps=1"]
    settings += [*quick, "router.training.batch_size=2", "arena.metrics=[chrF++]"]
    moesaic.run(tmp_path / "translate.yaml", settings=settings, folder=tmp_path / "run", until="data")
    assert "sources are read in the tokenizer's chat template, and <eos> ends an answer" in capsys.readouterr().out
    result = moesaic.run(tmp_path / "translate.yaml", settings=settings, folder=tmp_path / "run", quiet=True)
    assert AutoTokenizer.from_pretrained(result.model).chat_template
    message = "The tokenizer has no chat template, so there is no place for the system's text. Leave out task.system."
    off = [*settings, "task.chat_template=false"]
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        moesaic.run(tmp_path / "translate.yaml", settings=off, folder=tmp_path / "off", quiet=True)
    off += ["task.system=''"]
    moesaic.run(tmp_path / "translate.yaml", settings=off, folder=tmp_path / "off", until="data")
    assert "sources are read as plain text: it is switched off" in capsys.readouterr().out
    assert not AutoTokenizer.from_pretrained(tmp_path / "off/stages/data/tokenizer").chat_template


def test_a_row_that_is_no_conversation_is_named_with_its_file_and_line(recipe, tmp_path):
    write_rows(tmp_path)
    (tmp_path / "talk.yaml").write_text(RECIPE)
    with (tmp_path / "letters.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "alpha", "response": " "}) + "\n")
    message = f"{tmp_path}/letters.jsonl, line 28: the field 'response' is empty. Fill it in, or leave the row out."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        moesaic.run(tmp_path / "talk.yaml", folder=tmp_path / "run", quiet=True)
    assert moesaic.check(tmp_path / "talk.yaml").problems == (f"data.domains, letters: {message}",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model={type: encoder_decoder}",
            "model.type: models of the type 'encoder_decoder' cannot do chat, only translation, summarization, "
            "question_answering, multiple_choice. Use causal, whose models write.",
        ),
        (
            "decoding.num_beams=4",
            "decoding: 4 beams search for the likeliest target, and temperature 0.5 draws by chance. Use num_beams=1, "
            "or temperature 0.",
        ),
    ],
)
def test_a_recipe_of_a_chat_that_does_not_fit_says_where(recipe, setting, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(f'talk.yaml, {message}')}$"):
        load_recipe(recipe, [setting])


def test_a_model_of_another_task_does_not_chat(finished, tmp_path):
    model = finished.folder / "stages" / "expert-letters" / "model"
    for file in model.iterdir():
        if file.name != "task.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    message = rf"^{re.escape(str(tmp_path))}: this model continues text, and does not chat\. Use moesaic generate\.$"
    with pytest.raises(ValueError, match=message):
        next(moesaic.chat(tmp_path, ["hello"]))
