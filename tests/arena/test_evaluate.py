import json
import math

import pytest

import moesaic
from moesaic.combiners import Average
from moesaic.errors import DataError, IncompatibleMembersError
from moesaic.members import CausalLM
from moesaic.mixture import Mixture
from moesaic.testing import tiny_causal_lm, tiny_tokenizer


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "cats.jsonl"
    path.write_text("".join(json.dumps({"text": f"the cat sat on mat {number}"}) + "\n" for number in range(20)))
    return path


def test_members_and_their_mixture_are_compared(members, text):
    table = moesaic.evaluate([*members, Mixture(members, Average())], text, sequence_length=16)
    assert [row.name for row in table.rows] == ["general", "news", "law", "mixture"]
    assert table.domains == ("cats",)
    mixture = table.row("mixture")
    assert mixture.kind == "ensemble" and mixture.total_parameters == 3 * table.row("law").total_parameters
    # The mean of probabilities is at least as likely as the mean of their logarithms (Jensen).
    losses = [table.row(member.name).scores["cats"].nats_per_token for member in members]
    assert mixture.scores["cats"].nats_per_token < sum(losses) / 3


def test_domains_are_named(members, text):
    table = moesaic.evaluate(members[0], {"one": text, "two": str(text)})
    assert table.domains == ("one", "two")
    assert table.rows[0].scores["one"].nats_per_token == table.rows[0].scores["two"].nats_per_token


def test_a_model_that_knows_nothing_pays_the_logarithm_of_the_vocabulary(text):
    import torch

    network = tiny_causal_lm()
    torch.nn.init.zeros_(network.lm_head.weight)
    table = moesaic.evaluate(CausalLM("blank", network, tiny_tokenizer()), text)
    assert table.rows[0].scores["cats"].nats_per_token == pytest.approx(math.log(300), abs=1e-5)
    assert str(table).splitlines()[4].startswith("| blank | 5.704 [5.704, 5.704] |")


def test_two_models_with_one_name_are_refused(members, text):
    with pytest.raises(ValueError, match=r"^Two models are called 'law'; give each its own name\.$"):
        moesaic.evaluate([members[2], members[2]], text)


def test_no_model_is_refused(text):
    with pytest.raises(ValueError, match=r"^There is no model to evaluate; give at least one\.$"):
        moesaic.evaluate([], text)


def test_a_model_without_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match=r"^mute has no tokenizer, so it cannot read text\. Load it with one\.$"):
        moesaic.evaluate(CausalLM("mute", tiny_causal_lm()), text)


def test_different_tokenizers_are_refused(members, text):
    other = CausalLM("other", tiny_causal_lm(), tiny_tokenizer(["completely different words"]))
    with pytest.raises(IncompatibleMembersError) as error:
        moesaic.evaluate([members[0], other], text)
    assert str(error.value) == (
        "general and other have different tokenizers, so their losses per token are about different tokens. "
        "Evaluate them one by one, and compare bits per byte."
    )


def test_an_unknown_format_is_refused(members, tmp_path):
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(DataError) as error:
        moesaic.evaluate(members[0], tmp_path / "text.csv")
    assert str(error.value) == (
        f"{tmp_path / 'text.csv'}: a file of text ends in .jsonl, .jsonl.gz or .parquet; "
        "or give a folder of .txt files."
    )


def test_a_missing_file_is_named(members, tmp_path):
    with pytest.raises(DataError) as error:
        moesaic.evaluate(members[0], tmp_path / "gone.jsonl")
    assert str(error.value) == f"{tmp_path / 'gone.jsonl'}: there is no such file."
