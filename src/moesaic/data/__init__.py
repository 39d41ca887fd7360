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
from moesaic.data.sources import Data, HubDataset, JsonLines, Parquet, Source, TextFolder, name_sources
from moesaic.data.tokenizer import train_tokenizer

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
    "Batch",
    "BatchSampler",
    "Clusters",
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
    "Parquet",
    "Rows",
    "Sampler",
    "Source",
    "TextFolder",
    "TokenizedDomain",
    "TrainingBatch",
    "assign_balanced",
    "bootstrap",
    "center_groups",
    "check_unseen",
    "document_fingerprints",
    "evaluation_blocks",
    "find_clusters",
    "fingerprints",
    "folds",
    "load_domain",
    "name_sources",
    "out_of_bag",
    "pack_documents",
    "regroup",
    "take_documents",
    "tokenize_domain",
    "train_tokenizer",
]
