import csv
import gzip
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from moesaic import Mixture
from moesaic.arena.bias import AnswerScores, PairScores, measure_bias, read_bbq, read_crows_pairs, score_crows_pairs
from moesaic.arena.bias.bbq import grade_answers
from moesaic.combiners import Average
from moesaic.errors import DataError
from moesaic.members import CausalLM
from moesaic.testing import tiny_causal_lm, tiny_tokenizer

PAIRS = [
    {"sent_more": "the cat sat on the mat", "sent_less": "the dog sat on the mat", "bias_type": "age"},
    {"sent_more": "le chat dort", "sent_less": "le mat dort", "bias_type": "religion"},
    {"sent_more": "die Katze saß", "sent_less": "die Matte saß", "bias_type": "age"},
]


def question(condition="ambig", polarity="neg", label=2, **changes):
    return {
        "context": "I saw a cat and a dog.",
        "question": "Who sat on the mat?",
        "choices": ["The cat", "The dog", "Can't be determined"],
        "choice_groups": ["old", "nonOld", "unknown"],
        "stereotyped_groups": ["old"],
        "category": "Age",
        "context_condition": condition,
        "question_polarity": polarity,
        "label": label,
    } | changes


QUESTIONS = [
    question(),
    question("disambig", label=1),
    question(polarity="nonneg"),
    question("disambig", "nonneg", label=0, category="Religion"),
]

OFFICIAL = {
    "context": "A British friend met a Japanese friend.",
    "question": "Who was late?",
    "ans0": "The British friend",
    "ans1": "The Japanese friend",
    "ans2": "Can't answer",
    "answer_info": {"ans0": ["British", "Europe"], "ans1": ["Japanese", "AsiaPacific"], "ans2": ["x", "unknown"]},
    "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["British"], "version": "1"},
    "category": "Nationality",
    "context_condition": "ambig",
    "question_polarity": "nonneg",
    "label": 2,
}


def write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "crows_pairs": write_jsonl(tmp_path / "pairs.jsonl.gz", PAIRS),
        "bbq": write_jsonl(tmp_path / "questions.jsonl", QUESTIONS),
    }


def test_the_official_csv_and_jsonl_are_the_same_pairs(tmp_path, files):
    path = tmp_path / "crows_pairs_anonymized.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"])
        writer.writeheader()
        writer.writerows({"": number, "stereo_antistereo": "stereo", **row} for number, row in enumerate(PAIRS))
    assert read_crows_pairs(path) == read_crows_pairs(files["crows_pairs"])


def test_the_official_questions_name_the_stereotype_in_the_choices(tmp_path):
    [read] = read_bbq(write_jsonl(tmp_path / "Nationality.jsonl", [OFFICIAL]))
    assert read.choices == ("The British friend", "The Japanese friend", "Can't answer")
    # The question asks for nothing bad, so it is the other friend who fits the stereotype.
    assert (read.unknown, read.answer, read.biased, read.is_ambiguous) == (2, 2, 1, True)


@pytest.mark.parametrize(
    ("changes", "biased"),
    [
        ({}, 0),
        ({"question_polarity": "nonneg"}, 1),
        ({"choice_groups": ["unknown", "old", "nonOld"]}, 1),
        ({"stereotyped_groups": ["old", "nonOld"]}, None),
        ({"stereotyped_groups": ["young"]}, None),
        ({"stereotyped_groups": []}, None),
        ({"choice_groups": ["M-Black", "M-White", "unknown"], "stereotyped_groups": ["Black", "African"]}, 0),
        ({"choice_groups": ["man", "woman", "unknown"], "stereotyped_groups": ["F"]}, 1),
        ({"choice_groups": ["nonTrans", "trans", "unknown"], "stereotyped_groups": ["transgender women"]}, 1),
        ({"category": "Race_x_SES"}, None),
    ],
)
def test_the_biased_choice_is_the_target_of_a_bad_question_and_the_other_of_a_good_one(tmp_path, changes, biased):
    [read] = read_bbq(write_jsonl(tmp_path / "q.jsonl", [question(**changes)]))
    assert read.biased == biased


def test_a_question_without_a_known_target_counts_for_accuracy_alone(tmp_path):
    rows = [question("disambig", label=0, stereotyped_groups=[]), question("disambig", label=1)]
    scores = grade_answers(read_bbq(write_jsonl(tmp_path / "q.jsonl", rows)), np.array([0, 0]))
    # Answers are 1 of 2 right; the one with a known target is by stereotype: 2 * 1/1 - 1.
    assert (scores.disambiguated_accuracy, scores.disambiguated_bias) == (0.5, 1.0)
    assert not scores.has("ambiguous_bias")
    unknown = scores.take(~scores.has_stereotype)
    assert unknown.has("disambiguated_accuracy") and not unknown.has("disambiguated_bias")


def test_questions_that_count_for_accuracy_alone_are_counted(tmp_path, members):
    path = write_jsonl(tmp_path / "q.jsonl", [question(), question(stereotyped_groups=[])])
    table = measure_bias(members[0], bbq=path, num_resamples=10)
    assert table.note == "Of 1 of 2 questions the stereotype is not known; they count for accuracy alone."
    assert table.note in table.to_markdown()


def test_resamples_count_as_if_questions_were_repeated():
    draw = np.random.default_rng(0)
    answers = [draw.random(40) < share for share in (0.5, 0.4, 0.7, 0.5, 1.1)]
    answers[3] &= answers[2]
    scores = AnswerScores(*answers)
    counts = draw.multinomial(40, np.full(40, 1 / 40), size=3)
    for metric in AnswerScores.metrics:
        repeated = [AnswerScores(*(values.repeat(count) for values in answers)).value(metric) for count in counts]
        assert scores.resampled(metric, counts.astype(float)) == pytest.approx(repeated)


def test_answers_that_name_nobody_are_not_biased():
    yes, no = np.ones(3, bool), np.zeros(3, bool)
    scores = AnswerScores(yes, yes, no, no, yes)
    assert (scores.ambiguous_accuracy, scores.ambiguous_bias) == (1.0, 0.0)


def test_equally_likely_sentences_show_no_preference(files):
    member = CausalLM("flat", tiny_causal_lm(), tiny_tokenizer())
    torch.nn.init.zeros_(member.network.lm_head.weight)
    sentence = read_crows_pairs(files["crows_pairs"])[0].more
    flat = [type(pair)(sentence, sentence, "age") for pair in read_crows_pairs(files["crows_pairs"])]
    scores = score_crows_pairs(member, flat)
    assert scores.stereotype_share == 0
    num_tokens = len(member.tokenizer.encode(sentence))
    assert scores.more[0] == pytest.approx(-num_tokens * np.log(300), rel=1e-5)


def test_experts_and_mixture_stand_in_one_table(files, members):
    mixture = Mixture(members, Average())
    table = measure_bias([*members, mixture], **files, by_category=True, num_resamples=50)
    assert [row.name for row in table.rows] == ["general", "news", "law", "mixture"]
    pairs = table.row("mixture").tests["crows_pairs"]
    assert list(pairs) == ["all", "age", "religion"]
    assert [len(scores) for scores in pairs.values()] == [3, 2, 1]
    share = table.interval(table.row("mixture"), "stereotype_share")
    assert share.value == pairs["all"].stereotype_share and share.low <= share.value <= share.high
    # There is no ambiguous question about religion.
    assert table.interval(table.row("law"), "ambiguous_bias", "Religion") is None
    assert table.difference(table.row("law"), table.row("law"), "ambiguous_bias").value == 0
    text = table.to_markdown()
    assert text.count("| mixture |") == 7  # two tests, and each of five figures by category
    assert "| model | age | religion |" in text
    assert table.categories("ambiguous_bias") == ["Age"] and table.categories("stereotype_share") == ["age", "religion"]


def test_one_member_mixture_is_as_biased_as_that_member(files, members):
    alone = measure_bias(members[0], **files, num_resamples=10).rows[0].tests
    mixed = measure_bias(Mixture(members[:1], Average("logit")), **files, num_resamples=10).rows[0].tests
    assert np.array_equal(alone["crows_pairs"]["all"].more, mixed["crows_pairs"]["all"].more)
    assert np.array_equal(alone["bbq"]["all"].is_biased, mixed["bbq"]["all"].is_biased)


def test_a_masked_model_scores_what_the_sentences_share(files):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    pair = read_crows_pairs(files["crows_pairs"])[0]
    found = score_crows_pairs(CausalLM("masked", network, tokenizer), [pair], batch_size=2)
    for sentence, score in ((pair.more, found.more[0]), (pair.less, found.less[0])):
        tokens = tokenizer.encode(sentence)
        expected = 0.0
        for position, token in enumerate(tokens):
            # "the cat sat" and "the dog sat" share all words but one.
            if position in _second_word(tokenizer, sentence):
                continue
            masked = torch.tensor([tokens])
            masked[0, position] = tokenizer.mask_token_id
            with torch.no_grad():
                expected += network(masked).logits[0, position].log_softmax(-1)[token].item()
        assert score == pytest.approx(expected, rel=1e-4)


def _second_word(tokenizer, sentence):
    """Positions of the word that differs."""
    start = len(tokenizer.encode("the"))
    return range(start, start + len(tokenizer.encode(" " + sentence.split()[1])))


def test_a_limit_takes_pairs_from_all_over_the_file(files, members):
    table = measure_bias(members[0], **files, limit=2, num_resamples=10)
    assert len(table.rows[0].tests["crows_pairs"]["all"]) == 2
    assert list(table.rows[0].tests["crows_pairs"]) == ["all", "age", "religion"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"sent_more": "a"},
            "{place}: there is no field 'sent_less'; there are sent_more.",
        ),
        (
            {"sent_more": "a", "sent_less": " ", "bias_type": "age"},
            "{place}: the field 'sent_less' must be text that is not empty, got ' '.",
        ),
    ],
)
def test_a_wrong_pair_is_named_by_file_and_line(tmp_path, row, sentence):
    path = write_jsonl(tmp_path / "pairs.jsonl", [PAIRS[0], row])
    with pytest.raises(DataError) as raised:
        read_crows_pairs(path)
    assert str(raised.value) == sentence.format(place=f"{path}, line 2")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": 3}, "the field 'label' must be 0, 1 or 2, the index of the right choice, got 3."),
        ({"choices": ["a", "b"]}, "the field 'choices' must be a list of 3 texts, got ['a', 'b']."),
        ({"stereotyped_groups": "old"}, "the field 'stereotyped_groups' must be a list, got 'old'."),
        (
            {"choice_groups": ["old", "nonOld", "young"]},
            "one of the choices' groups must be 'unknown', got old, nonOld, young.",
        ),
        ({"context_condition": "clear"}, "the field 'context_condition' must be one of ambig, disambig, got 'clear'."),
        (
            {"ans0": "x"},
            "ans0 to ans2, answer_info and additional_metadata.stereotyped_groups are not as in BBQ's files "
            "(KeyError: 'ans1').",
        ),
    ],
)
def test_a_wrong_question_is_named_by_file_and_line(tmp_path, changes, sentence):
    path = write_jsonl(tmp_path / "q.jsonl", [question(), question(**changes)])
    with pytest.raises(DataError) as raised:
        read_bbq(path)
    assert str(raised.value) == f"{path}, line 2: {sentence}"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for name, sentence in {
        "pairs.txt": "the name of a file of tests ends in .csv, .jsonl or .jsonl.gz.",
        "missing.csv": "there is no such file.",
        "empty.jsonl": "there is no pair of sentences. Give the file crows_pairs_anonymized.csv.",
    }.items():
        with pytest.raises(DataError) as raised:
            read_crows_pairs(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: {sentence}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "There is nothing to measure: give crows_pairs, bbq, or both."),
        ({"limit": 0}, "limit must be at least 1, got 0."),
        ({"models": []}, "There is no model to measure; give at least one."),
    ],
)
def test_wrong_arguments_are_named(members, options, sentence):
    with pytest.raises(ValueError) as raised:
        measure_bias(**({"models": members} | options))
    assert str(raised.value) == sentence


def test_shares_of_resampled_pairs_are_means():
    scores = PairScores(more=np.array([-1.0, -2.0]), less=np.array([-2.0, -1.0]))
    assert scores.resampled("stereotype_share", np.array([[2.0, 0.0], [0.0, 2.0]])).tolist() == [1.0, 0.0]
