import json

import pytest

from moesaic.data import JsonLines
from moesaic.errors import DataError
from moesaic.tasks import count_questions, read_question, read_questions

ROW = {"question": "Who sang?", "context": "Ann sang. Ben and Ann danced.", "answers": ["Ann"]}


def test_an_answer_is_found_nearest_to_where_the_row_says():
    assert read_question(ROW, "here").spans == ((0, 3),)
    assert read_question(ROW | {"answer_start": [18]}, "here").spans == ((18, 21),)
    assert read_question(ROW | {"answer_start": 15}, "here").spans == ((18, 21),)  # off by three
    assert read_question(ROW | {"answer_start": [900]}, "here").spans == ((18, 21),)
    assert read_question(ROW | {"answer_start": [-1]}, "here").spans == ((0, 3),)


def test_answers_that_are_not_in_their_context_are_counted(tmp_path):
    rows = [ROW, ROW | {"answers": ["Carl"]}, ROW | {"answers": []}]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    questions = read_questions(JsonLines(path))
    assert [question.is_lost for question in questions] == [False, True, False]
    assert str(count_questions(questions)) == (
        "3 questions; the answers to 1 are not in their context; 1 have no answer"
    )


def test_choices_and_fixed_choices():
    question = read_question(ROW | {"choices": ["Ben", "Ann"], "answer_index": 1}, "here")
    assert (question.choices, question.answer_index) == (("Ben", "Ann"), 1)
    question = read_question(ROW | {"answers": ["maybe"]}, "here", fixed_choices=["yes", "no", "maybe"])
    assert (question.choices, question.answer_index) == (("yes", "no", "maybe"), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "the field 'question' is empty. Fill it in, or leave the row out."),
        ({"context": 3}, "the field 'context' must be text, got 3."),
        ({"domain": 3}, "the field 'domain' must be text, got 3."),
        ({"answers": "Ann"}, "the field 'answers' must be a list of texts, got 'Ann'."),
        ({"answers": [""]}, "the field 'answers' has an empty text. Fill it in, or leave it out of the list."),
        (
            {"answer_start": [1, 2]},
            "the field 'answer_start' must have one number for each of the 1 answers, got [1, 2]. Leave it out to "
            "have the answers looked for.",
        ),
        (
            {"choices": ["a", "b"], "answer_index": 2},
            "answer_index is 2, and there are 2 choices. Use 0 to 1.",
        ),
        (
            {"choices": ["a", "b"]},
            "answer_index is None, and there are 2 choices. Use 0 to 1.",
        ),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, change, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | change))
    with pytest.raises(DataError) as error:
        read_questions(JsonLines(path))
    assert str(error.value) == f"{path}, line 2: {message}"


def test_a_row_without_answers_and_an_answer_that_is_no_choice_are_refused():
    with pytest.raises(DataError, match=r"^line 1: there is no field 'answers'; there are question\.$"):
        read_question({"question": "Who?"}, "line 1")
    with pytest.raises(DataError, match=r"^line 1: the answer must be one of yes, no, got \['Ann'\]\.$"):
        read_question(ROW, "line 1", fixed_choices=["yes", "no"])
