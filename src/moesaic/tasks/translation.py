"""Translation: a sentence of one language into another, which a tag before it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as attribute
from string import Formatter
from typing import Any, ClassVar

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from moesaic.data import TARGET_TOKEN, Pair
from moesaic.errors import DataError
from moesaic.tasks.corpus_metrics import compare_corpora, signature
from moesaic.tasks.generative import Answers, GenerativeTask, Measured, check_answers, field

TEMPLATE = "<2{language}> {source}"
"""What models from scratch read: a tag for the target language, which is one token, and the sentence."""

_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char"}
"""How sacrebleu finds words, for target languages that are written without spaces between them; 13a for all others."""


@dataclass(frozen=True)
class Translation(GenerativeTask):
    """Translate; an expert is usually one of a language pair.

    The source begins with the target language's tag, such as ``<2de>``, so that one model can serve several. A model
    from elsewhere may have been trained to read something else, which the template says: T5
    ``translate English to {language}: {source}``, a model of one language pair ``{source}``.

    Attributes:
        source_field: The field that holds the sentence to translate.
        target_field: The field that holds its translation.
        language_field: The field that holds the target language's code.
        lowercase: Read and write lower case only, as papers on small data do; the figures are then lower-cased too.
        target_languages: The languages that can be asked for; those of the training rows if not given.
        template: What models read: ``{source}``, and where wanted ``{language}``.
        language_names: What ``{language}`` is in the template for each code; the code itself for those not given.
        target_token: The token of a decoder's own with which targets begin, so that it knows their language; it is
            ``{language}`` for NLLB, with ``language_names`` such as ``{"de": "deu_Latn"}``, and empty where there is
            none.

    Raises:
        ValueError: If the template has no ``{source}``, or asks for what a row does not have.

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
    template: str = TEMPLATE
    language_names: Mapping[str, str] = attribute(default_factory=dict, hash=False)
    target_token: str = ""

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
        sentence = self._case(field(row, self.source_field, place))
        return self.template.format(language=self._name(language), source=sentence)

    def ask(self, row: Mapping[str, Any], place: str) -> Pair:
        """See :meth:`GenerativeTask.ask`; the language goes with it where the source does not begin with its tag."""
        pair, language = super().ask(row, place), row[self.language_field]
        details = {} if self._has_tags else {"language": language}
        token = self.target_token.format(language=self._name(language))
        return replace(pair, details=details | ({TARGET_TOKEN: token} if token else {}))

    def references(self, row: Mapping[str, Any], place: str) -> tuple[str, ...]:
        """See :meth:`GenerativeTask.references`."""
        return (self._case(field(row, self.target_field, place)),)

    @property
    def tags(self) -> tuple[str, ...]:
        """See :attr:`GenerativeTask.tags`: one a target language, unless the template is another."""
        return tuple(f"<2{language}>" for language in self.target_languages or ()) if self._has_tags else ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """See :attr:`GenerativeTask.prompts`: one a target language, where the template has it before the source."""
        if self._slots.index("source") == 0:
            return ()
        names = [self._name(language) for language in self.target_languages or ()]
        return tuple(self.template.format(language=name, source="") for name in names)

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
        if "source" not in self._slots or not {"source", "language"}.issuperset(self._slots):
            raise ValueError(
                f"template must have {{source}}, and may have {{language}}, got {self.template!r}. Write {{{{ and }}}} "
                "for braces that are to stand there."
            )

    @property
    def _slots(self) -> list[str]:
        return [name for _, name, _, _ in Formatter().parse(self.template) if name is not None]

    def _name(self, language: str) -> str:
        return self.language_names.get(language, language)

    @property
    def _has_tags(self) -> bool:
        return self.template == TEMPLATE and not self.language_names

    def _case(self, text: str) -> str:
        return text.lower() if self.lowercase else text


def _language(pair: Pair) -> str:
    tag = pair.source.split(">", 1)[0].removeprefix("<2")
    return str(pair.details.get("language", tag))


def _metrics(language: str) -> dict[str, BLEU | CHRF]:
    tokenize = _TOKENIZERS.get(language, "13a")
    return {
        "BLEU": BLEU(tokenize=tokenize),
        "BLEU lower-cased": BLEU(tokenize=tokenize, lowercase=True),
        "chrF++": CHRF(word_order=2),
    }
