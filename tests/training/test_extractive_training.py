"""Scorers of sentences learn what the oracle takes."""

import pytest
import torch

from moesaic.errors import DataError
from moesaic.members import (
    DocumentRouter,
    ExtractiveSummarizer,
    ModuleMember,
    SentenceScorer,
    make_text_classifier,
)
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Document, SummaryLength
from moesaic.training import TrainingOptions, fit_sentence_scorer, label_documents


def test_a_scorer_learns_what_the_oracle_takes():
    names = ["rain", "snow", "hail", "fog", "wind", "frost", "sleet", "mist"]
    documents = [
        Document(f"Nobody minded. So it goes. The {name} came.", (f"The {name} came.",), title=name) for name in names
    ]
    scorer = SentenceScorer()
    options = TrainingOptions(num_steps=60, batch_size=8, learning_rate=1e-2, num_warmup_steps=5)
    history = fit_sentence_scorer(scorer, label_documents(documents), options)
    assert history[-1].loss < 0.1
    (summary,) = ExtractiveSummarizer(scorer, SummaryLength(1))([Document("A thing. Another thing. The ice came.")])
    assert summary.positions == (2,)


def test_a_mixture_learns_like_a_scorer_router_and_members_together():
    documents = [
        Document("Rain fell. The sun shone later. Nobody minded at all.", ("Rain fell.",)),
        Document("Ada: Well, hello.\nBob: The remote is yellow.", ("The remote is yellow.",)),
        Document("Rain fell again. So what?", ("Rain.",)),
    ]
    classifier = make_text_classifier("word_average", [document.text for document in documents], num_classes=2, seed=0)
    members = [ModuleMember(name, SentenceScorer(seed=seed)) for seed, name in enumerate("ab")]
    mixture = RoutedMixture(members, DocumentRouter(classifier))
    before = [parameter.clone() for parameter in classifier.parameters()]
    options = TrainingOptions(num_steps=10, batch_size=3, learning_rate=1e-2, num_warmup_steps=1)
    history = fit_sentence_scorer(mixture, label_documents(documents), options)
    assert history[-1].loss < history[0].loss
    assert any(not torch.equal(old, new) for old, new in zip(before, classifier.parameters(), strict=True))


def test_documents_that_share_no_word_with_their_summary_teach_nothing():
    labelled = label_documents([Document("Rain fell.", ("Xyzzy.",))])
    assert str(labelled) == "0 documents; 1 left out that share no word with their summary"
    with pytest.raises(
        DataError,
        match=r"^There is no document to learn from: 1 share no word with their summary\. Check that documents and "
        r"summaries are of the same language\.$",
    ):
        fit_sentence_scorer(SentenceScorer(), labelled, TrainingOptions(num_steps=1))


def test_documents_are_labelled_and_counted():
    labelled = label_documents([Document("Rain fell. So it goes.", ("Rain.",)), Document("Snow.", ("Xyzzy.",))])
    both = labelled + label_documents([Document("Hail came. Hail fell.", ("Hail came, hail fell.",))])
    assert both.oracles == ((0,), (0, 1))
    assert str(both) == "2 documents; 1 left out that share no word with their summary"


def test_a_batch_has_more_documents_than_there_are():
    labelled = label_documents([Document("Rain fell.", ("Rain.",))])
    with pytest.raises(
        DataError,
        match=r"^A batch has 2 examples, and there are only 1 to draw from\. Lower batch_size, or give more examples "
        r"\(raise max_samples, if they were resampled\)\.$",
    ):
        fit_sentence_scorer(SentenceScorer(), labelled, TrainingOptions(num_steps=1, batch_size=2))
