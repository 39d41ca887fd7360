import pytest
from sklearn.metrics import precision_recall_fscore_support

from moesaic.data import read_pair, write_pair
from moesaic.errors import DataError
from moesaic.tasks import MultipleChoice, read_task, write_task

ROW = {"question": "Who sang?", "choices": ["Ben", "Ann", "Cid"], "answer_index": 1}


def pairs_with_right(task, places):
    return [task.pair(ROW | {"answer_index": place}, "here") for place in places]


def test_a_row_becomes_a_prompt_its_choices_and_the_right_one(tmp_path):
    task = MultipleChoice(normalization="bytes")
    pair = read_pair(write_pair(task.pair(ROW | {"context": "Ann sang."}, "row 1")))
    assert pair.source == "Question: Who sang?\nBen\nAnn\nCid\nAnn sang.\nAnswer:"
    assert pair.references == ("Ann",)
    assert pair.details == {"choices": ["Ben", "Ann", "Cid"], "normalization": "bytes", "answer_index": 1}
    asked = task.ask({"question": "Who sang?", "choices": ["Ben", "Ann"]}, "the prompt")
    assert asked.details == {"choices": ["Ben", "Ann"], "normalization": "bytes"}
    write_task(task, tmp_path)
    assert read_task(tmp_path).arguments() == task.arguments()


def test_the_first_answer_says_which_choice_is_right_where_no_number_does():
    row = {"question": "Does it?", "answers": ["no"]}
    for task, asked in (
        (MultipleChoice(), row | {"choices": ["yes", "no", "maybe"]}),
        (MultipleChoice(fixed_choices=("yes", "no", "maybe")), row),
    ):
        pair = task.pair(asked, "here")
        assert (pair.references, pair.details["answer_index"]) == (("no",), 1)
        assert task.ask({"question": "Does it?"} | asked, "here").details["choices"] == ["yes", "no", "maybe"]


def test_the_scores_are_those_of_scikit_learn_over_the_places():
    task = MultipleChoice()
    right, chosen = [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 0, 0]
    pairs = pairs_with_right(task, right)
    answers = {"model": [ROW["choices"][place] for place in chosen], **task.baselines(pairs)}
    measured = task.compare(answers, pairs, num_resamples=200)
    model = [measured["model"][metric].value / 100 for metric in task.metrics]
    precision, recall, f1, _ = precision_recall_fscore_support(right, chosen, average="macro", zero_division=0)
    assert model == pytest.approx([3 / 6, f1, precision, recall])
    assert measured["model"]["accuracy"].low < 50 < measured["model"]["accuracy"].high
    # The place that is right most often is the second: 3 of 6, and one of three recalls.
    always = measured["always the most frequent choice"]
    assert (always["accuracy"].value, always["macro recall"].value) == (50, pytest.approx(100 / 3))
    # Both are right three times, so chance alone makes at least that difference in every resample.
    assert always["accuracy"].p_value == 1
    assert measured["model"]["accuracy"].p_value is None


def test_two_choices_with_the_same_text_are_both_right():
    task = MultipleChoice()
    pair = task.pair(ROW | {"choices": ["Ann", "Ben", "Ann"], "answer_index": 2}, "here")
    assert task.compare({"model": ["Ann"]}, [pair], num_resamples=5)["model"]["accuracy"].value == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answer_index": 3},
            "q.jsonl, line 7: answer_index is 3, and there are 3 choices. Use 0 to 2.",
        ),
        (
            {"choices": ["Ann"], "answer_index": 0},
            "q.jsonl, line 7: there are 1 choices, and two or more are needed; the fields are question, choices, "
            "answer_index. Give the row a list of 'choices', or the task fixed_choices.",
        ),
        (
            {"choices": ["Ann", " "]},
            "q.jsonl, line 7: the field 'choices' has an empty text. Fill it in, or leave it out of the list.",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_their_line(changes, message):
    with pytest.raises(DataError) as error:
        MultipleChoice().pair(ROW | changes, "q.jsonl, line 7")
    assert str(error.value) == message


def test_answers_that_do_not_fit_are_refused():
    task = MultipleChoice()
    pairs = pairs_with_right(task, [1, 1])
    with pytest.raises(ValueError) as error:
        task.compare({"model": ["Ann"]}, pairs)
    assert str(error.value) == "'model' gave 1 answers to 2 sources. Give one answer a source, in their order."
    with pytest.raises(ValueError) as error:
        task.compare({"model": ["Ann", "Eve"]}, pairs)
    assert str(error.value) == "'model' answered 'Eve', which is none of the choices: Ben, Ann, Cid."


def test_a_task_that_cannot_be_is_refused():
    for arguments, message in (
        ({"normalization": "words"}, "normalization must be one of none, tokens, bytes, got 'words'."),
        ({"fixed_choices": ["yes"]}, "fixed_choices has 'yes' alone. Give two or more, or none."),
    ):
        with pytest.raises(ValueError) as error:
            MultipleChoice(**arguments)
        assert str(error.value) == message
