import json

import pytest

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks import Chat, TaskSet, read_task, write_task


def turns(*said):
    return [{"role": role, "content": content} for role, content in said]


TALK = turns(("user", "Hello"), ("assistant", "Hi!"), ("user", "Who sang?"), ("assistant", "Ann. "))


def test_the_last_turn_of_the_assistant_is_learned_and_earlier_ones_are_read():
    pair = Chat().pair({"messages": TALK}, "row 1")
    assert pair == Pair("user: Hello\nassistant: Hi!\nuser: Who sang?", ("Ann.",), messages=tuple(TALK[:3]))


def test_every_turn_that_answers_a_user_can_be_learned():
    system, greeting = turns(("system", "Be kind."), ("assistant", "Welcome."))
    pair = Chat().pair({"messages": [system, greeting, *TALK]}, "row 1")
    assert list(Chat().lessons(pair)) == [pair]
    asked = (system, greeting, TALK[0])
    first = Pair("system: Be kind.\nassistant: Welcome.\nuser: Hello", ("Hi!",), messages=asked)
    assert list(Chat(learned_turns="all").lessons(pair)) == [first, pair]
    alone = Chat().pair({"prompt": "Who?", "response": "Ann."}, "row 1")
    assert list(Chat(learned_turns="all").lessons(alone)) == [alone]


def test_turns_are_learned_with_the_tag_of_their_task():
    tasks = TaskSet({"talk": Chat(learned_turns="all")})
    pair = tasks.pair("talk", {"messages": TALK}, "row 1")
    first, last = tasks.lessons("talk", [pair])
    assert last == pair
    assert first.source == "[talk] Hello"
    assert first.messages == ({"role": "user", "content": "[talk] Hello"},)


def test_a_prompt_and_its_response_are_a_conversation_too():
    pair = Chat(prompt_field="question", response_field="answer").pair({"question": "Who?", "answer": "Ann."}, "row 1")
    assert pair == Pair("Who?", ("Ann.",), messages=tuple(turns(("user", "Who?"))))
    assert Chat().references({"prompt": "Who?", "response": ["Ann.", "Ann sang."]}, "row 1") == ("Ann.", "Ann sang.")


def test_a_rows_own_system_text_goes_before_that_of_the_recipe():
    system = turns(("system", "Be kind."))[0]
    task = Chat(system="Be brief.")
    assert task.ask({"prompt": "Who?", "system": "Be kind."}, "row 1").messages[0] == system
    assert task.ask({"messages": [system, *TALK]}, "row 1").messages[0] == system
    assert task.ask({"prompt": "Who?"}, "row 1").messages[0]["content"] == "Be brief."


def test_answers_are_compared_by_what_people_answered(tmp_path):
    pairs = [Chat().pair({"prompt": "Who?", "response": text}, "row") for text in ("Ann sang.", "Ben danced.")]
    answers = {"first": ["Ann sang.", "Ben danced."], "second": ["Ben danced.", "Ann sang."]}
    measured = Chat().compare(answers, pairs, baseline="second", num_resamples=20)
    assert measured["first"]["chrF++"].value == measured["first"]["ROUGE-Lsum"].value == 100
    assert measured["second"]["ROUGE-Lsum"].value == 0
    assert Chat().signatures()["chrF++"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:2")
    write_task(Chat(system="Be brief."), tmp_path)
    assert read_task(tmp_path) == Chat(system="Be brief.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, ": there is neither a field 'messages' nor 'prompt'; there are text."),
        (
            {"messages": "Hello"},
            ": the field 'messages' must be a list of turns, each with role and content, got 'Hello'.",
        ),
        ({"messages": ["Hello"]}, ", turn 1: a turn has role and content, got 'Hello'."),
        (
            {"messages": turns(("user", "Hello"), ("bot", "Hi!"))},
            ", turn 2: the role 'bot' is not known; there are system, user, assistant.",
        ),
        (
            {"messages": TALK[:3]},
            ": the conversation in 'messages' ends with the user, and what models learn is the assistant's last turn. "
            "Leave out what follows it, or the row.",
        ),
        (
            {"messages": TALK[1:2]},
            ": before the assistant's last turn there must be one of the user, got none.",
        ),
        (
            {"messages": [*TALK[:2], *TALK[1:2]]},
            ": before the assistant's last turn there must be one of the user, got user, assistant.",
        ),
        (
            {"messages": [*TALK[:1], *turns(("system", "Be kind.")), *TALK[2:]]},
            ", turn 2: only the first turn can be the system's. Leave it out.",
        ),
        (
            {"messages": turns(("user", "Hello"), ("assistant", " "))},
            ", turn 2: the field 'content' is empty. Fill it in, or leave the row out.",
        ),
        ({"prompt": "Hello", "response": ""}, ": the field 'response' is empty. Fill it in, or leave the row out."),
        ({"prompt": "Hello", "response": []}, ": the field 'response' is empty. Fill it in, or leave the row out."),
        ({"prompt": "Hello", "response": [1]}, ": the field 'response' must be text, got 1."),
        ({"prompt": "Hello"}, ": there is no field 'response'; there are prompt."),
    ],
    ids=json.dumps,
)
def test_a_row_that_is_no_conversation_is_named(row, message):
    with pytest.raises(DataError) as error:
        Chat().pair(row, "chat.jsonl, line 3")
    assert str(error.value) == f"chat.jsonl, line 3{message}"
