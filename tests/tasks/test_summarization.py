"""Rows become documents, and documents become prompts that fit a model."""

import gzip
import json
from dataclasses import replace

import pytest

from moesaic.data import JsonLines, Pair
from moesaic.errors import DataError
from moesaic.tasks import Document, Summarization, cut_documents, read_task, summarization_prompt, write_task
from moesaic.testing import tiny_tokenizer

ROW = {"document": "It rained. Nobody minded.", "summary": "Rain.", "domain": "weather"}


def write_rows(path, *rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def read(path):
    return [Summarization().document(row, place) for place, row in JsonLines(path).rows()]


def test_a_row_becomes_a_document(tmp_path):
    row = {**ROW, "references": ["It was wet.", "Rain."], "query": " What fell? ", "title": None, "id": 7}
    (document,) = read(write_rows(tmp_path / "train.jsonl.gz", row))
    assert document == Document(ROW["document"], ("It was wet.", "Rain."), "weather", "What fell?", "")
    assert document.sentences == ("It rained.", "Nobody minded.")
    assert document.source == "What fell?\nIt rained. Nobody minded."


def test_the_summary_is_a_reference_too():
    row = {**ROW, "references": ["It was wet."]}
    assert Summarization().document(row, "here").references == ("Rain.", "It was wet.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"document": "It rained.", "highlights": "Rain."},
            "there is no field 'summary'; there are document, highlights.",
        ),
        ({**ROW, "summary": "  "}, "the field 'summary' is empty. Fill it in, or leave the row out."),
        ({**ROW, "document": None}, "the field 'document' must be text, got None."),
        ({**ROW, "query": 3}, "the field 'query' must be text, got 3."),
        ({**ROW, "references": "Rain."}, "the field 'references' must be a list of texts, got 'Rain.'."),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, message):
    path = write_rows(tmp_path / "train.jsonl.gz", ROW, row)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == f"{path}, line 2: {message}"


def test_models_are_asked_about_rows_without_summaries_too():
    task = Summarization()
    assert task.source({"document": "It rained."}, "here") == "Summarize the text.\n\nIt rained.\n\nSummary:"
    assert task.main_field == "document"


def test_the_task_is_written_beside_a_model(tmp_path):
    task = Summarization(document_field="article", instruction="")
    write_task(task, tmp_path)
    assert read_task(tmp_path) == task


def test_systems_are_compared_on_the_same_documents():
    pairs = [Pair("It rained.", ("It rained.",)), Pair("It snowed.", ("It snowed here.", "Snow."))]
    answers = {"copy": ["It rained.", "It snowed."], "silent": ["", ""]}
    found = Summarization().compare(answers, pairs, num_resamples=200)
    # "It snowed" has both words of three: F1 = 2 * 2 / (2 + 3); one pair of two: F1 = 2 * 1 / (1 + 2).
    assert found["copy"]["ROUGE-1"].value == pytest.approx((100 + 80) / 2)
    assert found["copy"]["ROUGE-2"].value == pytest.approx((100 + 200 / 3) / 2)
    assert found["silent"]["ROUGE-Lsum"].value == 0
    assert found["copy"]["ROUGE-1"].p_value is None
    assert set(Summarization().signatures()) == {"ROUGE-1", "ROUGE-2", "ROUGE-Lsum"}


def test_a_summary_a_document_is_asked_for():
    with pytest.raises(
        ValueError,
        match=r"^'copy' gave 1 answers to 0 sources\. Give one answer a source, in their order\.$",
    ):
        Summarization().compare({"copy": ["It rained."]}, [])


def test_the_query_takes_the_place_of_the_instruction():
    document = Document("Ada: Hello.", query="Who speaks?")
    assert summarization_prompt(document) == "Who speaks?\n\nAda: Hello.\n\nSummary:"
    assert summarization_prompt(replace(document, query=""), instruction="") == "Ada: Hello.\n\nSummary:"


def test_the_head_is_kept_and_what_was_cut_is_counted():
    documents = [Document("one two three four five six"), Document("short")]
    cut, report = cut_documents(documents, policy="head", max_tokens=4)
    assert [document.text for document in cut] == ["one two three four", "short"]
    assert str(report) == ("Longer than 4 tokens, and cut (head): 1 of 2 documents; 2 of 7 tokens are left out.")


def test_nothing_cut_is_said_too():
    _, report = cut_documents([Document("short")], policy="head", max_tokens=4)
    assert str(report) == "None of 1 documents is longer than 4 tokens."


def test_head_and_tail_keep_both_ends():
    (cut,), _ = cut_documents([Document("one two three four five six")], policy="head_tail", max_tokens=3)
    assert cut.text == "one two\nsix"


def test_what_answers_the_query_is_kept_in_order():
    meeting = Document(
        "Ada: The remote is yellow.\nBob: I had lunch.\nAda: The battery lasts long.\nBob: A yellow remote, fine.",
        query="What colour is the remote, yellow?",
    )
    documents = [meeting, replace(meeting, query="")]
    (cut, by_head), report = cut_documents(documents, policy="lead_by_query", max_tokens=10)
    assert cut.text == "Ada: The remote is yellow.\nBob: A yellow remote, fine."
    assert by_head.text == "Ada: The remote is yellow.\nBob: I had lunch.\nAda:"
    assert str(report) == (
        "Longer than 10 tokens, and cut (lead_by_query, 1 of them by head for want of a query): 2 of 2 documents; "
        "18 of 38 tokens are left out."
    )


def test_one_sentence_that_is_too_long_alone_is_cut_itself():
    document = Document("rain fell on all of Rome. nobody said that they minded it.", query="Rome")
    (cut,), _ = cut_documents([document], policy="lead_by_query", max_tokens=3)
    assert cut.text == "rain fell on"


@pytest.mark.parametrize("policy", ["head", "head_tail", "lead_by_query"])
def test_no_document_has_more_of_the_tokenizers_tokens_than_allowed(policy):
    tokenizer = tiny_tokenizer()
    document = Document("the cat sat on the mat. le chat dort! def cat(mat): return mat. " * 5, query="le chat")
    (cut,), report = cut_documents([document], policy=policy, max_tokens=20, tokenizer=tokenizer)
    left = len(tokenizer(cut.text)["input_ids"])
    assert left <= 20
    assert report.num_tokens - report.num_tokens_left_out == left


def test_a_policy_or_size_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^policy must be one of head, head_tail, lead_by_query, got 'tail'\.$"):
        cut_documents([], policy="tail", max_tokens=4)
    with pytest.raises(ValueError, match=r"^max_tokens must be at least 1, got 0\.$"):
        cut_documents([], policy="head", max_tokens=0)
