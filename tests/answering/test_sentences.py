import torch

from moesaic.answering import SentenceAnswerer, load_answerer
from moesaic.data import Pair
from moesaic.members import DocumentRouter, ModuleMember, SentenceScorer, make_text_classifier
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import SummaryLength

PAIRS = [
    Pair("", (), text="It rained. Nobody minded. So what?"),
    Pair("", (), text="It rained.", details={"query": "?"}),
]


def test_a_single_scorer_is_read_back_as_it_was(tmp_path):
    answerer = SentenceAnswerer(SentenceScorer(seed=1).eval(), SummaryLength(2, 5), "head", max_words=4)
    answerer.save(tmp_path)
    again = load_answerer(tmp_path)
    assert isinstance(again, SentenceAnswerer) and (again.length, again.cut, again.max_words) == (
        answerer.length,
        "head",
        4,
    )
    assert again.answer(PAIRS) == answerer.answer(PAIRS)
    assert all(not answer.shares for answer in answerer.answer(PAIRS))
    assert again.active_parameters == again.num_parameters


def test_a_routed_mixture_is_read_back_with_the_length_of_every_member(tmp_path):
    members = [ModuleMember(name, SentenceScorer(seed=seed)) for seed, name in enumerate(("short", "long"))]
    router = make_text_classifier("ngram_linear", ["rain"], num_classes=2, seed=0)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    lengths = {"short": SummaryLength(1), "long": SummaryLength(3)}
    mixture = RoutedMixture(members, DocumentRouter(router), top_k=1).eval()
    answerer = SentenceAnswerer(mixture, lengths, "lead_by_query", max_words=50)
    answerer.save(tmp_path)
    again = load_answerer(tmp_path)
    assert again.answer(PAIRS) == answerer.answer(PAIRS)
    [first, _] = answerer.answer(PAIRS)
    [chosen] = [name for name, share in first.shares.items() if share == 1]
    assert len(first.text.split("\n")) == lengths[chosen].max_sentences
    assert again.active_parameters == again.num_parameters - sum(p.numel() for p in members[0].network.parameters())
