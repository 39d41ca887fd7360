"""One model behind one small interface."""

from moesaic.members.adapted import (
    AdaptedLM,
    adapter_members,
    find_shared_backbones,
    find_teams,
    load_adapter_members,
    run_together,
    share_backbones,
)
from moesaic.members.adapter_files import is_adapter, load_adapter, named_backbone, save_adapter
from moesaic.members.adapters import (
    adapter_names,
    adapter_only,
    add_adapter,
    check_targets,
    embedding_scales,
    import_peft,
    merge_adapter,
)
from moesaic.members.answering import Decoding, write_from_tokens, write_targets
from moesaic.members.causal_lm import CausalLM, Seq2SeqLM, load_member, load_network, quiet_transformers
from moesaic.members.checkpoints import Checkpoint, TensorHeader, model_folder, read_checkpoint
from moesaic.members.choices import ChoiceNormalization, score_choices
from moesaic.members.damage import check_numbers
from moesaic.members.extractive import (
    ExtractiveSummarizer,
    ExtractiveSummary,
    ScoredDocument,
    choose_length,
    score_documents,
)
from moesaic.members.folders import changed_folder, new_folder
from moesaic.members.layer_rules import layer_rule
from moesaic.members.module import EstimatorMember, EstimatorModule, ModuleMember
from moesaic.members.names import check_names, position_of, positions_without
from moesaic.members.sentence_scorers import (
    DocumentRouter,
    PooledEncoder,
    SentenceScorer,
    sentence_cues,
    sentence_mask,
)
from moesaic.members.span_reader import (
    SpanReader,
    SpansRead,
    TokenRouter,
    load_span_reader,
    read_spans,
    span_log_probabilities,
)
from moesaic.members.stacked import (
    Execution,
    LoopedMembers,
    StackedMembers,
    check_execution,
    choose_execution,
    join_members,
)
from moesaic.members.target_scores import score_targets
from moesaic.members.text_classifiers import ARCHITECTURES, TextClassifier, make_text_classifier
from moesaic.members.text_encoding import NgramEncoder, TextEncoder, WordEncoder
from moesaic.members.tokenizers import load_tokenizer
from moesaic.members.word_vectors import CooccurrenceVectors
from moesaic.members.writing import Sampling, log_probabilities, score_candidates, write_candidates

__all__ = [
    "ARCHITECTURES",
    "AdaptedLM",
    "CausalLM",
    "Checkpoint",
    "ChoiceNormalization",
    "CooccurrenceVectors",
    "Decoding",
    "DocumentRouter",
    "EstimatorMember",
    "EstimatorModule",
    "Execution",
    "ExtractiveSummarizer",
    "ExtractiveSummary",
    "LoopedMembers",
    "ModuleMember",
    "NgramEncoder",
    "PooledEncoder",
    "Sampling",
    "ScoredDocument",
    "SentenceScorer",
    "Seq2SeqLM",
    "SpanReader",
    "SpansRead",
    "StackedMembers",
    "TensorHeader",
    "TextClassifier",
    "TextEncoder",
    "TokenRouter",
    "WordEncoder",
    "adapter_members",
    "adapter_names",
    "adapter_only",
    "add_adapter",
    "changed_folder",
    "check_execution",
    "check_names",
    "check_numbers",
    "check_targets",
    "choose_execution",
    "choose_length",
    "embedding_scales",
    "find_shared_backbones",
    "find_teams",
    "import_peft",
    "is_adapter",
    "join_members",
    "layer_rule",
    "load_adapter",
    "load_adapter_members",
    "load_member",
    "load_network",
    "load_span_reader",
    "load_tokenizer",
    "log_probabilities",
    "make_text_classifier",
    "merge_adapter",
    "model_folder",
    "named_backbone",
    "new_folder",
    "position_of",
    "positions_without",
    "quiet_transformers",
    "read_checkpoint",
    "read_spans",
    "run_together",
    "save_adapter",
    "score_candidates",
    "score_choices",
    "score_documents",
    "score_targets",
    "sentence_cues",
    "sentence_mask",
    "share_backbones",
    "span_log_probabilities",
    "write_candidates",
    "write_from_tokens",
    "write_targets",
]
