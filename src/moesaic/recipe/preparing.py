"""What the first stage does: sources become domains, a tokenizer, and the tokens of every split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from moesaic.data import (
    Domain,
    PackedDocuments,
    find_clusters,
    load_domain,
    regroup,
    tokenize_domain,
    train_tokenizer,
)
from moesaic.members import read_checkpoint
from moesaic.recipe.build import build_sources
from moesaic.recipe.stage_work import SPLITS
from moesaic.recipe.work import Work


def prepare_data(work: Work, output: Path) -> None:
    """Read the domains, train a tokenizer where no model brings one, and write the tokens of every split."""
    section = work.recipe.data
    domains = _read_domains(work)
    tokenizer = _make_tokenizer(work, domains)
    tokenizer.save_pretrained(output / "tokenizer")
    if section.num_clusters is not None:
        domains = _find_domains(work, domains, tokenizer, section.num_clusters)
    for domain in domains:
        tokenized = tokenize_domain(domain, tokenizer, sequence_length=section.sequence_length)
        for split in SPLITS:
            packed: PackedDocuments = getattr(tokenized, split)
            packed.save(output / f"{domain.name}.{split}.safetensors")
        work.say(
            f"  {domain.name}: {len(domain.train):,} documents, {len(tokenized.train.tokens):,} tokens to train "
            f"on, {len(tokenized.test.tokens):,} to test on"
        )


def _read_domains(work: Work) -> list[Domain]:
    section, domains = work.recipe.data, []
    for domain in section.domains:
        sources = build_sources(domain, work.loaded.path.parent)
        domains.append(
            load_domain(
                domain.name,
                sources["source"],
                validation=sources.get("validation"),
                test=sources.get("test"),
                validation_fraction=section.validation_fraction,
                test_fraction=section.test_fraction,
                max_bytes=None if section.max_megabytes is None else int(section.max_megabytes * 1e6),
            )
        )
    return domains


def _make_tokenizer(work: Work, domains: Sequence[Domain]) -> PreTrainedTokenizerBase:
    brought = work.tokenizer_source
    if brought is not None:
        return AutoTokenizer.from_pretrained(read_checkpoint(brought).path)
    documents = (document for domain in domains for document in domain.train)
    return train_tokenizer(documents, work.recipe.data.vocab_size)


def _find_domains(
    work: Work, domains: Sequence[Domain], tokenizer: PreTrainedTokenizerBase, num_clusters: int
) -> list[Domain]:
    """Domains found among all documents, instead of the named ones."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids

    documents = encode([text for domain in domains for text in domain.train])
    clusters = find_clusters(documents, num_clusters, vocab_size=len(tokenizer))
    found = regroup(domains, clusters, encode)
    for number, cluster in enumerate(found):
        held = set(cluster.train)
        shares = ", ".join(
            f"{len(held & set(domain.train)) / max(1, len(held)):.0%} {domain.name}" for domain in domains
        )
        typical = " ".join(tokenizer.decode([token]).strip() for token in clusters.typical_tokens(number))
        work.say(f"  {cluster.name} holds {shares}; typical: {typical}")
    return found
