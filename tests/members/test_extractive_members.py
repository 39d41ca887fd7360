"""Scorers of sentences are members: alone, averaged, and chosen by a router, one expert a document."""

import pytest
import torch
from transformers import BertConfig, BertModel

from moesaic.combiners import Average
from moesaic.members import (
    DocumentRouter,
    ExtractiveSummarizer,
    ModuleMember,
    PooledEncoder,
    SentenceScorer,
    choose_length,
    make_text_classifier,
    score_documents,
    sentence_cues,
    sentence_mask,
)
from moesaic.module_mixture import ModuleMixture
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Document, SummaryLength
from moesaic.testing import tiny_tokenizer

RAIN = Document("Rain fell. The sun shone later. Nobody minded at all.", ("Rain fell.",), "weather", title="On rain")
MEETING = Document(
    "Ada: Well, hello.\nBob: The remote is yellow.", ("The remote is yellow.",), "meeting", "Which remote?"
)
DOCUMENTS = [RAIN, MEETING, Document("Rain fell again. So what?", ("Rain.",), "weather")]


class ByKeyword(torch.nn.Module):
    """A router that knows the word "Ada"."""

    def forward(self, documents, mask):
        return torch.tensor([[0.0, 9.0] if "Ada" in document.text else [9.0, 0.0] for document in documents])


def first_word_average(seed=0):
    return make_text_classifier("word_average", [document.text for document in DOCUMENTS], num_classes=8, seed=seed)


def tiny_bert(pooling="mean"):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return PooledEncoder(BertModel(BertConfig(vocab_size=300, **sizes)).eval(), tiny_tokenizer(), pooling=pooling)


def test_cues_say_where_a_sentence_stands_and_what_it_is_like():
    cues = sentence_cues(RAIN)
    assert cues[:, 0].tolist() == pytest.approx([1, 1 / 2, 1 / 3])  # from the beginning
    assert cues[:, 2].tolist() == [0, 0.5, 1]
    assert cues[:, 10].argmax() == 0  # only the first shares a word with the title
    assert sentence_cues(MEETING)[:, 9].tolist()[0] == 0  # the greeting has nothing to do with the query


@pytest.mark.parametrize(
    ("encoder", "size"), [(None, 0), (first_word_average(), 8), (tiny_bert(), 16), (tiny_bert("first"), 16)]
)
def test_a_document_is_scored_alike_alone_and_among_longer_ones(encoder, size):
    scorer = SentenceScorer(encoder, encoder_size=size, num_context_layers=1, hidden_size=16).eval()
    together = scorer(DOCUMENTS, sentence_mask(DOCUMENTS))
    assert together.isfinite().tolist() == sentence_mask(DOCUMENTS).tolist()
    for row, document in enumerate(DOCUMENTS):
        alone = scorer([document], sentence_mask([document]))
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_sentences_are_read_in_any_order_but_answered_in_theirs():
    encoder = tiny_bert()
    sentences = ["the cat sat on the mat", "cat", "le chat dort"]
    encoder.batch_size = 1
    one_by_one = encoder(sentences)
    encoder.batch_size = 8
    torch.testing.assert_close(encoder(sentences), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("encoder", "size"), [(None, 0), (first_word_average(), 8), (tiny_bert("first"), 16)])
def test_a_scorer_is_saved_with_its_encoder(tmp_path, encoder, size):
    scorer = SentenceScorer(encoder, encoder_size=size, hidden_size=16, num_context_layers=1, seed=3).eval()
    scorer.save(tmp_path)
    mask = sentence_mask(DOCUMENTS)
    assert torch.equal(SentenceScorer.load(tmp_path)(DOCUMENTS, mask), scorer(DOCUMENTS, mask))


def test_an_encoder_that_cannot_be_made_again_is_not_saved(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"^A scorer with a Identity cannot be saved, since nothing says how to make it again\. Use one of "
        r"PooledEncoder, TextClassifier\.$",
    ):
        SentenceScorer(torch.nn.Identity()).save(tmp_path)


def test_scorers_average_like_classifiers():
    members = [ModuleMember(str(seed), SentenceScorer(seed=seed).eval()) for seed in (0, 1)]
    mixture = ModuleMixture(members, Average("probability"))
    mask = sentence_mask(DOCUMENTS)
    parts = [member.network(DOCUMENTS, mask).softmax(-1) for member in members]
    torch.testing.assert_close(mixture(DOCUMENTS, mask).logits.softmax(-1), sum(parts) / 2)


def test_a_router_chooses_one_expert_a_document():
    members = [ModuleMember(name, SentenceScorer(seed=seed).eval()) for seed, name in enumerate(("weather", "meeting"))]
    mixture = RoutedMixture(members, ByKeyword(), top_k=1)
    summarizer = ExtractiveSummarizer(mixture, {"weather": SummaryLength(1), "meeting": SummaryLength(2)})
    rain, meeting, again = summarizer(DOCUMENTS)
    assert [rain.weights, meeting.weights] == [{"weather": 1.0, "meeting": 0.0}, {"weather": 0.0, "meeting": 1.0}]
    assert [len(summary.sentences) for summary in (rain, meeting, again)] == [1, 2, 1]
    assert str(meeting) == "Ada: Well, hello. Bob: The remote is yellow."
    alone = ExtractiveSummarizer(members[0].network, SummaryLength(1))([RAIN])[0]
    assert alone.sentences == rain.sentences
    assert alone.weights == {}


def test_a_text_classifier_routes_documents():
    classifier = make_text_classifier("word_average", [document.text for document in DOCUMENTS], num_classes=2, seed=0)
    mixture = RoutedMixture(
        [ModuleMember(name, SentenceScorer()) for name in "ab"], DocumentRouter(classifier), top_k=1
    ).eval()
    routing = mixture(DOCUMENTS, sentence_mask(DOCUMENTS)).routing
    torch.testing.assert_close(routing.router_logits, classifier([document.source for document in DOCUMENTS]))


def test_scores_come_in_the_order_of_the_documents():
    scorer = SentenceScorer().eval()
    scored = score_documents(scorer, DOCUMENTS, batch_size=2)
    assert [len(row.scores) for row in scored] == [3, 2, 2]
    torch.testing.assert_close(scored[0].scores, scorer([RAIN], sentence_mask([RAIN]))[0].detach())


def test_the_length_is_learned_on_validation_documents():
    scored = score_documents(SentenceScorer(), [MEETING])
    both = Document(MEETING.text, (MEETING.text,))
    assert choose_length(scored, [both]) == SummaryLength(2)
    with pytest.raises(
        ValueError, match=r"^A length is chosen on validation documents, and there are none\. Set some aside\.$"
    ):
        choose_length([], [])


def test_lengths_are_given_to_the_members_there_are():
    with pytest.raises(
        ValueError,
        match=r"^There are lengths for news, and the members are a single one\. Give one length, or one a member by "
        r"its name\.$",
    ):
        ExtractiveSummarizer(SentenceScorer(), {"news": SummaryLength(1)})


def test_empty_documents_are_refused():
    with pytest.raises(ValueError, match=r"^Document 1 of 2 has no sentence\. Leave empty documents out\.$"):
        sentence_mask([RAIN, Document("\n")])


def test_a_pooling_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^pooling must be one of first, mean, got 'max'\.$"):
        tiny_bert("max")
