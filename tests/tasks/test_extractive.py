"""Sentences, ROUGE, the oracle, and summaries taken from a document."""

import pytest

from moesaic.tasks import (
    Document,
    Rouge,
    SummaryLength,
    greedy_oracle,
    lead,
    mean_rouge,
    overlap,
    pick_sentences,
    rouge,
    split_sentences,
)
from moesaic.tasks import rouge as rouge_of

WEATHER = Document("It is noon. Rain fell on Rome. The shops stayed open. Rome was wet all day. Nobody minded.")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", ()),
        ("no end", ("no end",)),
        ("lower case. as in contracts. ok", ("lower case.", "as in contracts.", "ok")),
        ("J. Smith vs. Dr. Who, e.g. here. Then I. Next", ("J. Smith vs. Dr. Who, e.g. here.", "Then I.", "Next")),
        ('He said "no." Then 3.5 times more!? Yes...', ('He said "no."', "Then 3.5 times more!?", "Yes...")),
        ("One paragraph. Two sentences.\n\nAnother one.", ("One paragraph.", "Two sentences.", "Another one.")),
        ("Ada: Hi. All well?\nBob: Yes.\n(laughs)", ("Ada: Hi. All well?", "Bob: Yes.", "(laughs)")),
    ],
)
def test_texts_are_split(text, sentences):
    assert split_sentences(text) == sentences


def test_rouge_is_what_rouge_score_says_of_sentences_on_lines():
    # ROUGE-1: rain, rome of 3 and of 4 words. ROUGE-2: no pair. Lsum: the same two words in order.
    found = rouge("Rain on Rome.", ["Rome: rain again there."])
    assert found.rouge1 == pytest.approx(100 * 4 / 7)
    assert found.rouge2 == 0
    # Sentence by sentence, the words count in any order of the sentences.
    swapped = rouge(["Nobody minded.", "It rained."], ["It rained. Nobody minded."])
    assert swapped.rouge_lsum == pytest.approx(100)


def test_the_best_reference_counts():
    assert rouge("It rained.", ["Nobody minded.", "It rained."]) == rouge("It rained.", ["It rained."])


def test_no_reference_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^A summary is compared with what people wrote, and there is no reference\. Give at least one\.$",
    ):
        rouge("It rained.", [])


def test_means_are_over_summaries():
    assert mean_rouge([Rouge(10.0, 0.0, 20.0), Rouge(30.0, 20.0, 40.0)]) == Rouge(20.0, 10.0, 30.0)
    with pytest.raises(ValueError, match=r"^There is no summary to take the mean of\.$"):
        mean_rouge([])


def test_overlap_is_rouge_without_its_stemmer():
    summary, references = "The cat sat on a mat", ["A cat sat there", "The dog ran on a mat"]
    found = [rouge_of(summary, [reference]) for reference in references]  # no word here has another stem
    assert overlap([summary], references) == pytest.approx(max(row.rouge1 + row.rouge2 for row in found) / 200)


def test_lead_is_no_longer_than_the_document():
    assert lead(WEATHER) == (0, 1, 2)
    assert lead(Document("It rained.")) == (0,)


def test_the_oracle_takes_sentences_while_rouge_rises():
    document = Document(WEATHER.text, references=("Rain fell on Rome. Nobody minded.",))
    assert greedy_oracle(document) == (1, 4)
    assert greedy_oracle(document, max_sentences=1) == (1,)


def test_the_oracle_serves_the_reference_that_it_can_serve_best():
    document = Document(WEATHER.text, references=("Something about shops was said.", "Rome was wet."))
    assert greedy_oracle(document) == (3,)


def test_the_oracle_may_find_nothing():
    assert greedy_oracle(Document(WEATHER.text, references=("Xyzzy.",))) == ()
    with pytest.raises(ValueError, match=r"^The best sentences are those nearest to what people wrote, and there is"):
        greedy_oracle(WEATHER)


def test_the_best_sentences_stand_in_the_documents_order():
    scores = [0.1, 0.5, 0.2, 0.9, 0.3]
    assert pick_sentences(WEATHER, scores, SummaryLength(2)) == (1, 3)
    assert pick_sentences(WEATHER, scores, SummaryLength(9)) == (0, 1, 2, 3, 4)
    # "Rome was wet all day" has five words, and the next sentence makes nine.
    assert pick_sentences(WEATHER, scores, SummaryLength(9, max_words=6)) == (1, 3)


def test_every_sentence_needs_a_score():
    with pytest.raises(ValueError, match=r"^Every sentence needs a score: got 5 sentences and 2 scores\.$"):
        pick_sentences(WEATHER, [0.1, 0.2], SummaryLength())


def test_a_summary_has_a_length():
    assert [str(SummaryLength(1)), str(SummaryLength(3, 60))] == ["1 sentence", "3 sentences or 60 words"]
    with pytest.raises(
        ValueError,
        match=r"^A summary has at least one sentence and one word, got max_sentences=0 and max_words=None\.$",
    ):
        SummaryLength(0)
