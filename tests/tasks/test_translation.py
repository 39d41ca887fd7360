import re

import pytest
import sacrebleu

from moesaic.data import Pair
from moesaic.errors import CheckpointError, DataError
from moesaic.tasks import Translation, read_task, write_task

GERMAN = ("Ein Hund läuft über die Wiese.", "Zwei Frauen sitzen auf einer Bank im Park.", "Ein Kind lacht laut.")
PAIRS = [Pair(f"<2de> {number}", (text,)) for number, text in enumerate(GERMAN)]
CLOSE = ("Ein Hund rennt über die Wiese.", "zwei Frauen sitzen auf einer Bank.", "Ein Kind lacht.")
FAR = ("Ein Hund.", "Frauen auf der Bank.", "Kind.")


def test_figures_are_those_of_sacrebleu():
    found = Translation().compare({"close": CLOSE, "far": FAR}, PAIRS, num_resamples=50)
    for name, texts in {"close": CLOSE, "far": FAR}.items():
        references = [list(GERMAN)]
        assert found[name]["BLEU"].value == pytest.approx(sacrebleu.corpus_bleu(texts, references).score)
        lower = sacrebleu.corpus_bleu(texts, references, lowercase=True).score
        assert found[name]["BLEU lower-cased"].value == pytest.approx(lower)
        assert found[name]["chrF++"].value == pytest.approx(
            sacrebleu.corpus_chrf(texts, references, word_order=2).score
        )
    assert found["close"]["BLEU"].p_value is None
    assert found["far"]["BLEU"].p_value < 0.05


def test_the_very_same_answers_do_not_differ():
    found = Translation().compare({"one": CLOSE, "other": CLOSE}, PAIRS, num_resamples=50)
    assert {measured.p_value for measured in found["other"].values()} == {1.0}


def test_the_baseline_may_be_any_system():
    found = Translation().compare({"close": CLOSE, "far": FAR}, PAIRS, baseline="far", num_resamples=50)
    assert found["far"]["chrF++"].p_value is None and found["close"]["chrF++"].p_value is not None


def test_lower_case_is_read_and_written():
    task = Translation(lowercase=True)
    pair = task.pair({"source": "Ein Haus", "target": "A House", "target_lang": "en"}, "row 1")
    assert pair == Pair("<2en> ein haus", ("a house",))


def test_a_template_says_what_models_from_elsewhere_read():
    template = "translate English to {language}: {source}"
    task = Translation(template=template, language_names={"de": "German"})
    pairs = [
        task.pair({"source": f"A {noun}.", "target": text, "target_lang": "de"}, "row")
        for noun, text in zip(("dog", "bench", "child"), GERMAN, strict=True)
    ]
    assert pairs[0].source == "translate English to German: A dog."
    learned = task.learn(pairs)
    assert learned.target_languages == ("de",) and learned.tags == ()
    found, expected = (
        one.compare({"close": CLOSE}, of, num_resamples=10) for one, of in ((learned, pairs), (Translation(), PAIRS))
    )
    assert found["close"]["BLEU"].value == expected["close"]["BLEU"].value
    message = (
        "template must have {source}, and may have {language}, got '{text}'. Write {{ and }} for braces that are to "
        "stand there."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Translation(template="{text}")


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        ("<2{language}> {source}", ("<2German> ", "<2fr> ")),
        ("{source} in {language}", ()),  # a source may begin with any language's name
        ("{source}", ()),
    ],
)
def test_a_prompt_is_what_stands_before_the_source_and_tells_the_language(template, prompts):
    task = Translation(template=template, language_names={"de": "German"}, target_languages=("de", "fr"))
    assert task.prompts == prompts


def test_languages_come_from_the_training_rows():
    task = Translation().learn([Pair("<2fr> a", ("b",)), Pair("<2de> a", ("b",)), Pair("<2fr> c", ("d",))])
    assert task.target_languages == ("de", "fr") and task.tags == ("<2de>", "<2fr>")
    assert task.signatures()["chrF++, fr"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:2")


def test_words_are_told_apart_as_the_language_writes_them():
    signatures = Translation(target_languages=("de", "ja", "zh")).signatures()
    words = {
        language: re.search(r"tok:([\w-]+)", signatures[f"BLEU, {language}"])[1] for language in ("de", "ja", "zh")
    }
    assert words == {"de": "13a", "ja": "char", "zh": "zh"}


def test_a_task_is_written_beside_a_model_and_read_again(tmp_path):
    task = Translation(lowercase=True, source_field="en", target_languages=("de",))
    write_task(task, tmp_path)
    assert read_task(tmp_path) == task
    assert read_task(tmp_path / "nowhere") is None


def test_a_task_of_another_version_is_refused(tmp_path):
    (tmp_path / "task.json").write_text('{"type": "juggling"}')
    with pytest.raises(CheckpointError, match=r"task\.json: the task 'juggling' is not known; there are .*translation"):
        read_task(tmp_path)


def test_answers_of_another_number_are_refused():
    message = r"^'far' gave 2 answers to 3 sources\. Give one answer a source, in their order\.$"
    with pytest.raises(ValueError, match=message):
        Translation().compare({"far": FAR[:2]}, PAIRS)


def test_several_languages_at_once_are_refused():
    message = r"^The pairs are in several languages \(de, fr\); score each on its own\.$"
    with pytest.raises(ValueError, match=message):
        Translation().compare({"a": ("b", "c")}, [PAIRS[0], Pair("<2fr> a", ("b",))])


def test_a_row_without_its_language_is_refused():
    with pytest.raises(DataError, match=r"^row 7: there is no field 'target_lang'; there are source\.$"):
        Translation().source({"source": "a"}, "row 7")
