from dataclasses import replace

import pytest
import torch

from moesaic.data import train_reader_tokenizer
from moesaic.errors import DataError
from moesaic.tasks import NO_ANSWER, Question, best_spans, tokenize_spans
from moesaic.testing import tiny_tokenizer

CONTEXT = "Ann sang. Then Ben danced until Carl fell asleep."
QUESTION = Question("Who danced?", CONTEXT, ("Ben",), ((15, 18),))


@pytest.fixture(scope="module")
def tokenizer():
    return train_reader_tokenizer([CONTEXT, "who danced ?"], 200)


def tokenize(questions, tokenizer, **changes):
    return tokenize_spans(questions, tokenizer, **({"max_length": 13, "stride": 3, "max_question_tokens": 4} | changes))


def test_windows_overlap_and_hold_the_answer_or_say_that_they_do_not(tokenizer):
    first = Question("Who sang?", CONTEXT, ("Ann",), ((0, 3),))
    windows = tokenize([first, QUESTION], tokenizer)
    # 11 tokens of context in windows of 7 that share 3: "Ben", the fifth, is in both, "Ann", the first, in one.
    assert windows.question_index.tolist() == [0, 0, 1, 1]
    assert windows.spans[1].tolist() == [NO_ANSWER, NO_ANSWER]
    for window, answer in ((0, "Ann"), (2, "Ben"), (3, "Ben")):
        begin, end = windows.spans[window]
        offsets = windows.offsets[window]
        assert CONTEXT[offsets[begin, 0] : offsets[end, 1]] == answer


def test_an_answer_that_begins_inside_a_token_is_the_whole_token(tokenizer):
    windows = tokenize([replace(QUESTION, answers=("anc",), spans=((20, 23),))], tokenizer, max_length=40)
    first, last = windows.spans[0]
    assert CONTEXT[windows.offsets[0, first, 0] : windows.offsets[0, last, 1]] == "danced"


def test_the_best_span_of_all_windows_is_taken(tokenizer):
    """Every window is told where the answer is, or surely that it is not there."""
    questions = [QUESTION, replace(QUESTION, question="Who fell?", answers=("Carl",), spans=((32, 36),))]
    windows = tokenize(questions, tokenizer)
    scores = torch.full((len(windows), 2, windows.input_ids.shape[1]), -20.0)
    scores.scatter_(2, windows.spans.unsqueeze(-1), -0.1)
    answers = best_spans(questions, windows, scores)
    assert [(answer.text, answer.start, answer.end) for answer in answers] == [("Ben", 15, 18), ("Carl", 32, 36)]
    assert [windows.question_index[answer.window] for answer in answers] == [0, 1]
    assert answers[0].log_probability == pytest.approx(-0.2)
    assert best_spans(questions, windows, scores, batch_size=1) == answers


def test_an_answer_ends_where_it_begins_or_later_and_is_not_too_long(tokenizer):
    windows = tokenize([QUESTION], tokenizer, max_length=40)
    start = int(windows.may_answer[0].nonzero()[1])
    scores = torch.full((1, 2, 40), -20.0)
    scores[0, 0, start + 4], scores[0, 1, start] = 0, 0  # it would end before it begins
    scores[0, 0, start + 2], scores[0, 1, start + 8] = -1, -1
    tokens = tokenizer.tokenize(CONTEXT)
    [long] = best_spans([QUESTION], windows, scores)
    assert (long.log_probability, tokenizer.tokenize(long.text)) == (-1, tokens[4:9])
    [short] = best_spans([QUESTION], windows, scores, max_answer_tokens=2)
    assert short.log_probability == -20


def test_no_answer_is_given_where_that_is_likelier_by_the_margin(tokenizer):
    windows = tokenize([QUESTION], tokenizer, max_length=40)
    scores = torch.full((1, 2, 40), -3.0)
    scores[:, :, NO_ANSWER] = -1
    assert best_spans([QUESTION], windows, scores)[0].text
    assert best_spans([QUESTION], windows, scores, no_answer_margin=4.5)[0].text
    [none] = best_spans([QUESTION], windows, scores, no_answer_margin=3.5)
    assert (none.text, none.start, none.end) == ("", 0, 0)
    assert none.no_answer_log_probability - none.log_probability == 4


def test_a_long_question_is_cut_and_counted(tokenizer):
    long = replace(QUESTION, question="Who danced? Who danced? Who danced?")
    windows = tokenize([long, QUESTION], tokenizer, max_length=40)
    assert windows.num_cut_questions == 1
    assert tokenizer.decode(windows.input_ids[0], skip_special_tokens=True).startswith("who danced? who ann")


def test_a_router_reads_the_first_window_of_each_question(tokenizer):
    windows = tokenize([QUESTION, QUESTION], tokenizer)
    half = len(windows) // 2
    assert windows.first_windows.tolist() == [0] * half + [half] * half
    router_ids = windows.inputs[-1]
    assert (router_ids == router_ids[0]).all()
    assert (router_ids[0] >= 0).equal(windows.attention_mask[0].bool())


def test_what_cannot_be_read_is_refused(tokenizer):
    with pytest.raises(DataError) as error:
        tokenize([QUESTION, replace(QUESTION, context="", spans=())], tokenizer)
    assert str(error.value) == (
        "Question 1 ('Who danced?') has no context to read an answer in. Give it one, or have it answered by a model "
        "that writes."
    )
    with pytest.raises(ValueError) as error:
        tokenize([QUESTION], tokenizer, stride=6)
    assert str(error.value) == (
        "stride must be from 0 to 5: a window of max_length (13) tokens has room for 6 beside a question of "
        "max_question_tokens (4), got 6."
    )
    with pytest.raises(ValueError, match=r"^There is no question to read; give at least one\.$"):
        tokenize([], tokenizer)
    on_the_left = tiny_tokenizer()
    on_the_left.padding_side = "left"
    with pytest.raises(ValueError) as error:
        tokenize([QUESTION], on_the_left)
    assert str(error.value) == (
        f"{type(on_the_left).__name__} must be a fast tokenizer that pads on the right, since answers are found by the "
        "offsets of tokens. Use the tokenizer of a BERT-like encoder."
    )
