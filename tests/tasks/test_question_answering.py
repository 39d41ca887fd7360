import pytest

from moesaic.data import read_pair, write_pair
from moesaic.errors import DataError
from moesaic.members import Decoding, write_targets
from moesaic.tasks import Question, QuestionAnswering, question_of, read_task, write_task
from moesaic.testing import tiny_causal_lm, tiny_tokenizer

ROW = {"question": "Who sang?", "context": "Ann sang.", "answers": ["Ann", "Ann did"]}


def test_a_row_becomes_a_prompt_and_answers():
    task = QuestionAnswering(template="{context} {question}\n{choices}\n=")
    assert task.source(ROW, "here") == "Ann sang. Who sang?\n\n="
    assert (
        task.source(ROW | {"choices": ["Ben", "Ann"], "answer_index": 1}, "here") == "Ann sang. Who sang?\nBen\nAnn\n="
    )
    assert task.references(ROW, "here") == ("Ann", "Ann did")
    assert QuestionAnswering().source(ROW | {"context": ""}, "here") == "Question: Who sang?\nAnswer:"


def test_a_question_is_asked_without_its_answer():
    task = QuestionAnswering()
    assert task.source({task.main_field: "Who sang?"}, "here") == "Question: Who sang?\nAnswer:"
    unanswered = {"question": "Who?", "choices": ["Ann", "Ben"]}
    assert QuestionAnswering(template="{question} {choices}").source(unanswered, "here") == "Who? Ann\nBen"


def test_question_and_context_go_with_a_pair():
    asked = QuestionAnswering().ask({"question": "Who sang?", "context": "Ann sang."}, "the prompt")
    assert asked.source == "Ann sang.\nQuestion: Who sang?\nAnswer:"
    assert question_of(asked) == Question("Who sang?", "Ann sang.", ())
    assert read_pair(write_pair(QuestionAnswering().pair(ROW, "row 1"))).details["spans"] == [[0, 3]]


def test_systems_are_compared_by_the_best_of_the_references():
    task = QuestionAnswering()
    pairs = [task.pair(ROW, "1"), task.pair(ROW | {"answers": ["in the hall"]}, "2")]
    answers = {"first": ["ann.", "hall"], "second": ["Ben", "nowhere"]}
    measured = task.compare(answers, pairs, num_resamples=100)
    # The articles go: "in hall" and "hall" share 1 word of 2 and of 1, which is 2/3; the mean of 1 and 2/3 is 5/6.
    assert measured["first"]["F1"].value == pytest.approx(100 * 5 / 6)
    assert measured["first"]["exact match"].value == 50
    assert measured["second"]["F1"].value == 0
    assert measured["first"]["F1"].p_value is None
    with pytest.raises(ValueError, match=r"^'first' gave 1 answers to 2 sources\. Give one answer a source, in "):
        task.compare({"first": ["ann"]}, pairs)


def test_a_tiny_model_answers_and_a_saved_task_is_read_again(tmp_path):
    task = QuestionAnswering(language="de")
    sources = [task.source(ROW, "here")]
    [answer] = write_targets(
        tiny_causal_lm(), tiny_tokenizer(), sources, Decoding(max_new_tokens=4), max_source_tokens=48
    )
    assert isinstance(answer, str)
    write_task(task, tmp_path)
    assert read_task(tmp_path) == task


def test_a_question_without_an_answer_and_a_bad_template_are_refused():
    with pytest.raises(DataError) as error:
        QuestionAnswering().references(ROW | {"answers": []}, "q.jsonl, line 3")
    assert str(error.value) == (
        "q.jsonl, line 3: the field 'answers' is empty. Give at least one, or leave the row out."
    )
    for template in ("Answer!", "{question} {text}"):
        with pytest.raises(ValueError) as error:
            QuestionAnswering(template=template)
        assert str(error.value) == (
            f"template must have {{question}}, and may have {{context}} and {{choices}}, got {template!r}. Write "
            "{{ and }} for braces that are to stand there."
        )
