"""Turns in a tokenizer's chat template: what is read, where an answer ends, what is cut, and templates that fail."""

import re

import pytest

from moesaic.answering import WritingAnswerer
from moesaic.data import Pair, read_pair, train_pair_tokenizer, write_pair
from moesaic.errors import CheckpointError, DataError
from moesaic.members import Decoding, load_member
from moesaic.tasks import (
    CHAT_TAGS,
    CHAT_TEMPLATE,
    QuestionAnswering,
    Translation,
    chat_prompt,
    encode_prompts,
    end_of_turn,
    tokenize_chats,
)
from moesaic.testing import tiny_causal_lm

REMEDY = "Correct its chat_template, leave out what it does not know, or set task.chat_template to false."
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer(template=CHAT_TEMPLATE, tags=CHAT_TAGS):
    tokenizer = train_pair_tokenizer(["the cat sat on the mat", "who sang"], 290, tags=tags)
    tokenizer.chat_template = template
    tokenizer.model_max_length = 32
    return tokenizer


def turns(*said):
    return tuple({"role": role, "content": content} for role, content in said)


TALK = turns(("system", "Be kind."), ("user", "one two"), ("assistant", "three"), ("user", "four five"))


def test_a_source_becomes_one_turn_of_the_user_and_the_answer_ends_the_turn():
    tokenizer = chat_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"])
    tokens, cut = tokenize_chats([Pair("who", ("sang",))], tokenizer, max_source_tokens=32, max_target_tokens=8)
    assert tokenizer.decode(tokens.source_tokens) == "<|im_start|>user\nwho<|im_end|>\n<|im_start|>assistant\n"
    # The line break that the template writes after the turn is not learned.
    assert tokenizer.decode(tokens.target_tokens) == "sang<|im_end|>"
    assert str(cut) == "nothing was cut"


def test_a_task_can_tell_a_system_text_and_a_pair_keeps_its_turns():
    pair = QuestionAnswering(system="Be brief.").pair({"question": "Who?", "context": "", "answers": ["Ann"]}, "row 1")
    assert pair.messages == turns(("system", "Be brief."), ("user", "Question: Who?\nAnswer:"))
    assert read_pair(write_pair(pair)) == pair
    assert Translation().ask({"source": "a", "target_lang": "de"}, "row 1").messages == ()


def test_of_long_conversations_the_latest_turns_are_read_and_never_half_a_template():
    tokenizer = chat_tokenizer()
    whole = [chat_prompt(tokenizer, TALK), chat_prompt(tokenizer, [TALK[0], TALK[3]])]
    sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in whole]
    pair = Pair("four five", (), messages=TALK)
    for size, text in zip(sizes, whole, strict=True):
        [tokens], num_cut, rest = encode_prompts([pair], tokenizer, size)
        assert (tokenizer.decode(tokens), num_cut, rest) == (text, int(size < sizes[0]), sizes[0] - size)
    [tokens], _, _ = encode_prompts([pair], tokenizer, sizes[1] - 2)
    assert re.fullmatch(
        r"<\|system\|>Be kind\.<eos><\|user\|>four .*<eos><\|assistant\|>", text := tokenizer.decode(tokens)
    )
    assert "five" not in text
    message = (
        "The chat template with the system's text has so many tokens that nothing of what the user says could be read: "
        r"\d+ too many\. Raise data\.max_source_tokens, or shorten the system's text\."
    )
    with pytest.raises(DataError, match=f"^{message}$"):
        encode_prompts([pair], tokenizer, 5)


def test_a_character_that_is_cut_in_the_middle_is_left_out():
    tokenizer = chat_tokenizer()
    size = len(tokenizer("<|user|>ab<eos><|assistant|>", add_special_tokens=False)["input_ids"])
    [tokens], _, _ = encode_prompts([Pair("ab猫", ())], tokenizer, size + 1)
    assert tokenizer.decode(tokens) == "<|user|>ab<eos><|assistant|>"


def test_a_long_answer_is_learned_to_end_where_it_is_cut():
    tokenizer = chat_tokenizer()
    pair = Pair("a", ("abcdefgh",))
    tokens, cut = tokenize_chats([pair], tokenizer, max_source_tokens=32, max_target_tokens=4)
    assert tokenizer.decode(tokens.target_tokens) == "abc<eos>"
    assert (cut.num_targets, cut.num_tokens) == (1, 5)


def test_a_saved_chat_model_ends_its_answers_in_plain_transformers_too(tmp_path):
    tokenizer = chat_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"])
    network = tiny_causal_lm(eos_token_id=1)
    answerer = WritingAnswerer(network, tokenizer, Decoding(max_new_tokens=4))
    assert answerer.chats and answerer.end_tokens == [end_of_turn(tokenizer), 1]
    [answer] = answerer.answer([Pair("who", (), messages=TALK[1:])])
    assert isinstance(answer.text, str)
    answerer.save(tmp_path)
    member = load_member(tmp_path)
    assert member.network.generation_config.eos_token_id == answerer.end_tokens
    assert member.tokenizer.chat_template == CHATML
    assert not WritingAnswerer(network, chat_tokenizer(None)).chats


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ raise_exception('System role not supported') }}",
            "fails on turns of system, user, assistant, user: System role not supported",
        ),
        ("{{ messages[-1].content }}", "leaves out what the system says: 'four five'."),
        ("{{ messages[0].content }}", "leaves out what the user says: 'Be kind.'."),
    ],
)
def test_a_chat_template_that_does_not_do_says_what_it_fails_at(template, message):
    with pytest.raises(CheckpointError) as error:
        chat_prompt(chat_tokenizer(template), TALK)
    assert str(error.value) == f"The chat template of the tokenizer {message} {REMEDY}"


def test_a_chat_template_must_say_where_an_answer_ends():
    tokenizer = chat_tokenizer("{{ messages[0].content }}")
    with pytest.raises(CheckpointError) as error:
        end_of_turn(tokenizer)
    assert str(error.value) == f"The chat template of the tokenizer leaves out what the assistant says: 'a'. {REMEDY}"
    tokenizer = chat_tokenizer("{% for message in messages %}{{ message.content }}{% endfor %}")
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(CheckpointError) as error:
        end_of_turn(tokenizer)
    assert str(error.value) == (
        "Neither the chat template of the tokenizer ends an answer with a token of its own, nor has the tokenizer a "
        "token that ends a text. Set its eos_token."
    )
