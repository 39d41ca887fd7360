from hypothesis import given
from hypothesis import strategies as st

from moesaic.data import train_tokenizer

TOKENIZER = train_tokenizer(["the cat sat on the mat"] * 3, vocab_size=270)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda text: "<eos>" not in text))
def test_every_text_is_read_back_unchanged(text):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_the_end_of_text_is_token_zero():
    assert TOKENIZER.eos_token_id == TOKENIZER.pad_token_id == 0


def test_training_twice_gives_the_same_tokenizer():
    again = train_tokenizer(["the cat sat on the mat"] * 3, vocab_size=270)
    assert again.get_vocab() == TOKENIZER.get_vocab()
