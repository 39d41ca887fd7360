"""Questions that come with choices, answered by models that write."""

import re
from pathlib import Path

import pytest

from moesaic.answering import WritingAnswerer
from moesaic.combiners import BySource
from moesaic.combiners.choices import Hard
from moesaic.data import train_pair_tokenizer
from moesaic.errors import RecipeError
from moesaic.members import Seq2SeqLM, score_targets
from moesaic.recipe import load_recipe
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.tasks import MultipleChoice
from moesaic.testing import tiny_seq2seq_lm

ROWS = [
    {"question": "Who sang?", "choices": ["Ben", "Ann and Cid"], "answer_index": 1},
    {"question": "Wer?", "choices": ["die Katze", "der Hund", "du"], "answer_index": 0},
]


def test_the_likeliest_choice_is_the_answer_and_the_router_says_whose_it_is():
    tokenizer = train_pair_tokenizer(["Who sang?", "Ben", "Ann", "die Katze", "der Hund"], 300)
    tokenizer.model_max_length = 16
    members = [Seq2SeqLM(f"seed {seed}", tiny_seq2seq_lm(seed=seed), tokenizer) for seed in (1, 2)]
    network = Seq2SeqMixture(members, BySource(choice=Hard(), router_width=4)).eval()
    for normalization in ("none", "tokens"):
        pairs = [MultipleChoice(normalization=normalization).pair(row, "here") for row in ROWS]
        answers = WritingAnswerer(network, tokenizer).answer(pairs)
        scores = score_targets(
            network,
            tokenizer,
            [pair.source for pair in pairs],
            [row["choices"] for row in ROWS],
            max_source_tokens=16,
            normalization=normalization,
        )
        for answer, row, of_row in zip(answers, ROWS, scores, strict=True):
            assert answer.text == row["choices"][int(of_row.argmax())]
            assert sorted(answer.shares.values()) == [0, 1]


def test_how_text_is_written_says_nothing_where_choices_are_given():
    recipe = Path(__file__).parents[2] / "recipes" / "multiple-choice.yaml"
    message = "multiple-choice.yaml, decoding.num_beams: this says nothing to the task multiple_choice. Leave it out."
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(recipe, ["decoding.num_beams=2"])
    message = (
        "multiple-choice.yaml, arena.metrics: multiple_choice is not measured by 'F1', but by accuracy, macro F1, "
        "macro precision, macro recall."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        load_recipe(recipe, ["arena.metrics=[F1]"])
