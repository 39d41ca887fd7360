import torch

from moesaic.answering import SpanAnswerer, load_answerer
from moesaic.data import Pair, train_reader_tokenizer
from moesaic.members import ModuleMember, SpanReader, TokenRouter
from moesaic.routed_mixture import RoutedMixture
from moesaic.testing import tiny_span_model

TEXT = "ann sang . ben slept . " * 8
PAIRS = [Pair("", (), text=TEXT, details={"question": question}) for question in ("who sang ?", "who slept ?")]
TOKENIZER = train_reader_tokenizer([TEXT, "who sang ? who slept ?"], 60)


def reader(seed):
    return SpanReader(tiny_span_model(seed=seed, vocab_size=len(TOKENIZER), max_position_embeddings=96)).eval()


def test_a_single_reader_is_read_back_as_it_was(tmp_path):
    answerer = SpanAnswerer(reader(0), TOKENIZER, max_length=80, stride=4, max_answer_tokens=3)
    answerer.save(tmp_path)
    again = load_answerer(tmp_path)
    assert isinstance(again, SpanAnswerer)
    assert (again.max_length, again.stride, again.max_answer_tokens) == (80, 4, 3)
    answers = answerer.answer(PAIRS)
    assert again.answer(PAIRS) == answers
    assert all(answer.text in TEXT and len(answer.text.split()) <= 3 and not answer.shares for answer in answers)


def test_a_routed_mixture_answers_each_question_by_one_member_in_all_its_windows(tmp_path):
    router = TokenRouter(len(TOKENIZER), 2)
    sang, slept = (TOKENIZER.convert_tokens_to_ids(word) for word in ("sang", "slept"))
    with torch.no_grad():
        # Both words stand in every text; the questions decide.
        router.table[sang, 0] = router.table[slept, 1] = 1
    mixture = RoutedMixture([ModuleMember("a", reader(0)), ModuleMember("b", reader(1))], router, top_k=1).eval()
    answerer = SpanAnswerer(mixture, TOKENIZER, max_length=80, stride=4)
    assert [dict(answer.shares) for answer in answerer.answer(PAIRS)] == [{"a": 1, "b": 0}, {"a": 0, "b": 1}]
    answerer.save(tmp_path)
    assert load_answerer(tmp_path).answer(PAIRS) == answerer.answer(PAIRS)
