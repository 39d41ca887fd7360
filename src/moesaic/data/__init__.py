"""Rows become domains, splits and batches."""

from moesaic.data.batches import (
    NOT_SCORED,
    Batch,
    BatchSampler,
    EvaluationBlocks,
    PackedDocuments,
    Sampler,
    TokenizedDomain,
    TrainingBatch,
    evaluation_blocks,
    pack_documents,
    tokenize_domain,
)
from moesaic.data.clusters import Clusters, assign_balanced, center_groups, find_clusters, regroup
from moesaic.data.domains import Domain, load_domain
from moesaic.data.examples import ExampleBatch, Examples, ExampleSampler
from moesaic.data.machine import MachineText
from moesaic.data.mixing import mix_domains
from moesaic.data.pair_batches import PairBatch, PairSampler, pad
from moesaic.data.pair_tokens import (
    Cut,
    TokenizedPairs,
    encode_cut,
    ends_texts,
    first_target_tokens,
    telling_tokens,
    tokenize_pairs,
)
from moesaic.data.pairs import TARGET_TOKEN, Pair, PairDomain, load_pair_domain, read_pair, write_pair
from moesaic.data.resample import (
    Rows,
    bootstrap,
    check_unseen,
    document_fingerprints,
    fingerprints,
    folds,
    out_of_bag,
    take_documents,
)
from moesaic.data.sources import Data, HubDataset, JsonLines, Parquet, RowSource, Source, TextFolder, name_sources
from moesaic.data.token_splits import TokenSplits
from moesaic.data.tokenizer import train_pair_tokenizer, train_reader_tokenizer, train_tokenizer

SOURCES: dict[str, type[Source]] = {
    "folder": TextFolder,
    "hub": HubDataset,
    "jsonl": JsonLines,
    "machine": MachineText,
    "parquet": Parquet,
}
"""Registered word of every source, as recipes spell it."""

__all__ = [
    "NOT_SCORED",
    "SOURCES",
    "TARGET_TOKEN",
    "Batch",
    "BatchSampler",
    "Clusters",
    "Cut",
    "Data",
    "Domain",
    "EvaluationBlocks",
    "ExampleBatch",
    "ExampleSampler",
    "Examples",
    "HubDataset",
    "JsonLines",
    "MachineText",
    "PackedDocuments",
    "Pair",
    "PairBatch",
    "PairDomain",
    "PairSampler",
    "Parquet",
    "RowSource",
    "Rows",
    "Sampler",
    "Source",
    "TextFolder",
    "TokenSplits",
    "TokenizedDomain",
    "TokenizedPairs",
    "TrainingBatch",
    "assign_balanced",
    "bootstrap",
    "center_groups",
    "check_unseen",
    "document_fingerprints",
    "encode_cut",
    "ends_texts",
    "evaluation_blocks",
    "find_clusters",
    "fingerprints",
    "first_target_tokens",
    "folds",
    "load_domain",
    "load_pair_domain",
    "mix_domains",
    "name_sources",
    "out_of_bag",
    "pack_documents",
    "pad",
    "read_pair",
    "regroup",
    "take_documents",
    "telling_tokens",
    "tokenize_domain",
    "tokenize_pairs",
    "train_pair_tokenizer",
    "train_reader_tokenizer",
    "train_tokenizer",
    "write_pair",
]
