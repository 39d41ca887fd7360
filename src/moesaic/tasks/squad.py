"""Exact match and F1 of short answers, as SQuAD counts them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = {
    "en": "a an the",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "es": "un una unos unas el la los las",
}
_WORDS = re.compile(
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
"""A character of a script that is written without spaces between words (Thai, kana, Han), or a run of others."""


def normalize_answer(text: str, *, language: str | None = None) -> str:
    """Take out of an answer what should not decide whether it is right.

    Args:
        text: The answer.
        language: Without it, as SQuAD does: lower case; no ASCII punctuation; no English articles; single spaces. With
            a language's code, as MLQA does: no punctuation of any script, and that language's articles instead, which
            are known for en, de and es; others keep theirs.

    Example:
        >>> normalize_answer("The  Eiffel-Tower!")
        'eiffeltower'
        >>> normalize_answer("¿Los Panthers?", language="es")
        'panthers'

    References: Rajpurkar et al. (2016), section 6.1, https://arxiv.org/abs/1606.05250; Lewis et al. (2020), section
    4.1, https://arxiv.org/abs/1910.07475
    """
    kept = "".join(letter for letter in text.lower() if not _is_punctuation(letter, language))
    articles = _ARTICLES.get(language or "en", "").split()
    if articles:
        kept = re.sub(rf"\b({'|'.join(articles)})\b", " ", kept)
    return " ".join(kept.split())


def exact_match(prediction: str, answers: Sequence[str], *, language: str | None = None) -> float:
    """1 if the prediction is one of the answers but for what :func:`normalize_answer` takes out, else 0.

    Args:
        prediction: What was answered.
        answers: All right ones; where there are none, nothing is the right answer.
        language: See :func:`normalize_answer`.

    Example:
        >>> exact_match("the cat.", ["A dog", "Cat"])
        1.0
        >>> exact_match("", [])
        1.0
    """
    found = normalize_answer(prediction, language=language)
    return float(any(found == normalize_answer(answer, language=language) for answer in answers or [""]))


def answer_f1(prediction: str, answers: Sequence[str], *, language: str | None = None) -> float:
    """How many words a prediction shares with the answer that it is nearest to, from 0 to 1.

    It is the harmonic mean of the share of its words that are the answer's and the share of the answer's that are its.
    Words are what stands between spaces; each character of Thai, Japanese kana and Chinese counts as a word, since
    those scripts have no spaces between words.

    Args:
        prediction: What was answered.
        answers: All right ones; where there are none, nothing is the right answer.
        language: See :func:`normalize_answer`.

    Example:
        Of "big black cat" two of three words are right, and they are all that was to be said:

        >>> round(answer_f1("a big black cat", ["dog", "the black cat"]), 3)
        0.8
        >>> round(answer_f1("308分", ["308"]), 3)
        0.667
    """
    found = _words(prediction, language)
    return max(_f1(found, _words(answer, language)) for answer in answers or [""])


def _is_punctuation(letter: str, language: str | None) -> bool:
    return letter in string.punctuation or (language is not None and unicodedata.category(letter).startswith("P"))


def _words(text: str, language: str | None) -> Counter[str]:
    return Counter(_WORDS.findall(normalize_answer(text, language=language)))


def _f1(found: Counter[str], right: Counter[str]) -> float:
    if not found or not right:
        return float(found == right)
    return 2 * (found & right).total() / (found.total() + right.total())
