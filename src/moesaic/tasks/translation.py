"""Translation: a sentence of one language into another, which a tag before it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from moesaic.data import Pair
from moesaic.errors import DataError
from moesaic.tasks.corpus_metrics import compare_corpora, signature
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers, field

_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char"}
"""How sacrebleu finds words, for target languages that are written without spaces between them; 13a for all others."""


@dataclass(frozen=True)
class Translation(GenerativeTask):
    """Translate; an expert is usually one of a language pair.

    The source begins with the target language's tag, such as ``<2de>``, so that one model can serve several.

    Attributes:
        source_field: The field that holds the sentence to translate.
        target_field: The field that holds its translation.
        language_field: The field that holds the target language's code.
        lowercase: Read and write lower case only, as papers on small data do; the figures are then lower-cased too.
        target_languages: The languages that can be asked for; those of the training rows if not given.

    Example:
        >>> task = Translation(lowercase=True)
        >>> pair = task.pair({"source": "A dog.", "target": "Ein Hund.", "target_lang": "de"}, "row 1")
        >>> pair.source, pair.target
        ('<2de> a dog.', 'ein hund.')

    References: Johnson et al. (2017), section 3 (the tag), https://arxiv.org/abs/1611.04558; Post (2018) (sacrebleu),
    https://aclanthology.org/W18-6319
    """

    word: ClassVar[str] = "translation"
    metrics: ClassVar[tuple[str, ...]] = ("BLEU", "BLEU lower-cased", "chrF++")

    source_field: str = "source"
    target_field: str = "target"
    language_field: str = "target_lang"
    lowercase: bool = False
    target_languages: tuple[str, ...] | None = None

    @property
    def main_field(self) -> str:
        """See :attr:`GenerativeTask.main_field`."""
        return self.source_field

    def source(self, row: Mapping[str, Any], place: str) -> str:
        """See :meth:`GenerativeTask.source`.

        Raises:
            DataError: If a field is missing or empty, or the language is not among those that can be asked for.
        """
        language = field(row, self.language_field, place)
        if self.target_languages is not None and language not in self.target_languages:
            raise DataError(
                f"{place}: {self.language_field} is {language!r}, which no member was trained to write; there are "
                f"{', '.join(self.target_languages)}."
            )
        return f"{_tag(language)} {self._case(field(row, self.source_field, place))}"

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`."""
        return (self._case(field(row, self.target_field, place)),)

    @property
    def tags(self) -> tuple[str, ...]:
        """See :attr:`GenerativeTask.tags`: one a target language."""
        return tuple(_tag(language) for language in self.target_languages or ())

    def learn(self, pairs: Sequence[Pair]) -> Translation:
        """See :meth:`GenerativeTask.learn`: the target languages."""
        if self.target_languages is not None:
            return self
        return replace(self, target_languages=tuple(sorted({_language(pair) for pair in pairs})))

    def compare(
        self, answers: Answers, pairs: Sequence[Pair], *, baseline: str | None = None, num_resamples: int = 1000
    ) -> dict[str, dict[str, Measured]]:
        """See :meth:`GenerativeTask.compare`; sacrebleu's own metrics and paired bootstrap.

        Raises:
            ValueError: If a system has not as many answers as there are pairs, or the pairs have several target
                languages, whose words are told apart differently.
        """
        check_answers(answers, pairs)
        languages = sorted({_language(pair) for pair in pairs})
        if len(languages) != 1:
            raise ValueError(f"The pairs are in several languages ({', '.join(languages)}); score each on its own.")
        first = next(iter(answers)) if baseline is None else baseline
        metrics = _metrics(languages[0])
        return compare_corpora(metrics, answers, pairs, baseline=first, num_resamples=num_resamples)

    def signatures(self) -> dict[str, str]:
        """See :meth:`GenerativeTask.signatures`: sacrebleu's, by metric and language."""
        found = {}
        for language in self.target_languages or ():
            for name, metric in _metrics(language).items():
                found[f"{name}, {language}"] = signature(metric)
        return found

    def arguments(self) -> dict[str, Any]:
        """See :meth:`GenerativeTask.arguments`."""
        return asdict(self)

    def __post_init__(self) -> None:
        if self.target_languages is not None:  # a list where it was read from JSON
            object.__setattr__(self, "target_languages", tuple(self.target_languages))

    def _case(self, text: str) -> str:
        return text.lower() if self.lowercase else text


def _tag(language: str) -> str:
    return f"<2{language}>"


def _language(pair: Pair) -> str:
    return pair.source.split(">", 1)[0].removeprefix("<2")


def _metrics(language: str) -> dict[str, BLEU | CHRF]:
    tokenize = _TOKENIZERS.get(language, "13a")
    return {
        "BLEU": BLEU(tokenize=tokenize),
        "BLEU lower-cased": BLEU(tokenize=tokenize, lowercase=True),
        "chrF++": CHRF(word_order=2),
    }
