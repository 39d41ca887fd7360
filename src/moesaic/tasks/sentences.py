"""Text as sentences, and sentences as words: what extractive summaries are made of and measured by."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer

_END = re.compile(r"""[.!?]+["'”’)\]]*(?=\s)""")
_SPEAKER = re.compile(r"[^\s:.!?][^:.!?]{0,40}:\s")
_WORD = re.compile("[a-z0-9]+")

_ABBREVIATIONS = frozenset(
    [
        *("al", "approx", "cf", "co", "corp", "dr", "e.g", "eg", "eq", "eqs", "etc", "fig", "figs", "i.e", "ie"),
        *("inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "nr", "prof", "resp", "sec", "sr", "st", "tab", "vol", "vs"),
    ]
)
"""Words after which a full stop ends no sentence, in lower case and without it."""


def split_sentences(text: str) -> tuple[str, ...]:
    r"""Split a text into sentences, by rules that need no model and no language.

    Where most lines begin with a speaker, each line is a turn and stays whole. Else a sentence ends with its line, or
    at ``.``, ``!`` or ``?`` before white space, unless an abbreviation or an initial comes before it.

    Example:
        >>> split_sentences("Dr. Smith et al. agree. Do we? (We do.) Yes")
        ('Dr. Smith et al. agree.', 'Do we?', '(We do.)', 'Yes')
        >>> split_sentences("Doctor: How are you? Well?\n\nPatient: Fine.")
        ('Doctor: How are you? Well?', 'Patient: Fine.')
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    num_turns = sum(_SPEAKER.match(line) is not None for line in lines)
    if len(lines) > 1 and num_turns > len(lines) / 2:
        return tuple(lines)
    return tuple(sentence for line in lines for sentence in _split_line(line))


def _split_line(line: str) -> list[str]:
    sentences, start = [], 0
    for end in _END.finditer(line):
        if end.group()[0] == "." and _is_abbreviated(line[start : end.start()]):
            continue
        sentences.append(line[start : end.end()].strip())
        start = end.end()
    rest = line[start:].strip()
    return [*sentences, rest] if rest else sentences


def _is_abbreviated(before: str) -> bool:
    """Whether the word before a full stop is an abbreviation or an initial, as in "J. Smith"."""
    words = before.split()
    if not words:
        return False
    last = words[-1].lstrip("""("'[“‘""")
    return last.lower() in _ABBREVIATIONS or (len(last) == 1 and last.isupper() and last != "I")


def words_of(text: str) -> list[str]:
    """Words in lower case, letters and digits only: those that ROUGE counts, before stemming.

    Example:
        >>> words_of("It's 5 o'clock.")
        ['it', 's', '5', 'o', 'clock']
    """
    return _WORD.findall(text.lower())


def similarity_to(query: str, sentences: Sequence[str]) -> Float[np.ndarray, " sentence"]:
    """How similar each sentence is to a query: the cosine of their TF-IDF vectors, from 0 to 1.

    The inverse frequencies are those among the sentences, so nothing has to be fitted ahead.

    Example:
        >>> similarity_to("cat", ["the cat", "the dog"]).round(2).tolist()
        [0.81, 0.0]
    """
    try:
        vectorizer = TfidfVectorizer(tokenizer=words_of, token_pattern=None, lowercase=False).fit(sentences)
    except ValueError:  # no sentence has a word
        return np.zeros(len(sentences))
    return (vectorizer.transform(sentences) @ vectorizer.transform([query]).T).toarray()[:, 0]


def centrality(sentences: Sequence[str]) -> Float[np.ndarray, " sentence"]:
    """How similar each sentence is to the text as a whole: the cosine of its TF-IDF vector and their sum.

    Reference: Radev et al. (2004), Centroid-based summarization of multiple documents, section 3.

    Example:
        >>> centrality(["a cat", "a cat sat", "rain"]).argmin()
        np.int64(2)
    """
    return similarity_to(" ".join(sentences), sentences)
