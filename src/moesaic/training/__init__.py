"""One loop, what it minimizes, and how it is resumed and shared over processes."""

from moesaic.training.attention import use_short_attention
from moesaic.training.bagging import Bag, bag, out_of_bag_accuracy, out_of_bag_probabilities
from moesaic.training.boosting import BoostedClassifiers, Votes, adaboost, gradient_boost
from moesaic.training.classification import (
    AdversarialClassification,
    Classification,
    EstimatorLearner,
    Learner,
    NetworkLearner,
    accuracy,
    predict_logits,
    regression,
    sample_examples,
)
from moesaic.training.document_bagging import DocumentSample, out_of_bag_nats, sample_documents
from moesaic.training.dropout import ByteDropout, cheap_dropout
from moesaic.training.em import EMFit, EMIteration, fit_em
from moesaic.training.extractive import (
    DocumentSampler,
    LabelledDocuments,
    fit_sentence_scorer,
    label_documents,
    sentence_ranking,
)
from moesaic.training.loop import fit
from moesaic.training.memory import keep_memory_warm
from moesaic.training.mixture_losses import MixtureLossName, MixtureObjective, RouterBalance
from moesaic.training.multi_task import MultiTaskObjective, TaskWeighting
from moesaic.training.objectives import (
    ChosenLanguageModeling,
    Losses,
    Objective,
    SparseLanguageModeling,
    language_modeling,
    mixture_language_modeling,
)
from moesaic.training.options import TrainingOptions, resolve_precision
from moesaic.training.out_of_fold import OutOfFold, out_of_fold_logits
from moesaic.training.processes import is_main, num_processes, process_group, training_device, wait_for_all
from moesaic.training.records import OnStep, StepRecord
from moesaic.training.rounds import fit_round
from moesaic.training.routed import (
    MIXTURE_MEMBERS_ONLY,
    MIXTURE_ROUTER_ONLY,
    fit_experts,
    fit_jointly,
    fit_router,
    router_alarms,
)
from moesaic.training.selective import calibrate_selective
from moesaic.training.sequence_to_sequence import (
    RoutedSequenceToSequence,
    SequenceToSequence,
    SourceRouting,
    balance_tasks,
)
from moesaic.training.snapshots import average_parameters, fit_snapshots, greedy_soup
from moesaic.training.spans import sample_span_domains, sample_spans, span_extraction
from moesaic.training.stacked import fit_stacked
from moesaic.training.stacking import (
    HeldOut,
    collect_held_out,
    combined_nats,
    fit_combiner,
    fit_weights,
    join_held_out,
    select_greedily,
)
from moesaic.training.stagewise import (
    Boosted,
    BoostingMethod,
    ReweightedLanguageModeling,
    StagewiseLanguageModeling,
    add_up,
    boost,
    fit_step_sizes,
)
from moesaic.training.train import FEED_FORWARD_ONLY, ROUTER_ONLY, train
from moesaic.training.validation import validation_nats

__all__ = [
    "FEED_FORWARD_ONLY",
    "MIXTURE_MEMBERS_ONLY",
    "MIXTURE_ROUTER_ONLY",
    "ROUTER_ONLY",
    "AdversarialClassification",
    "Bag",
    "Boosted",
    "BoostedClassifiers",
    "BoostingMethod",
    "ByteDropout",
    "ChosenLanguageModeling",
    "Classification",
    "DocumentSample",
    "DocumentSampler",
    "EMFit",
    "EMIteration",
    "EstimatorLearner",
    "HeldOut",
    "LabelledDocuments",
    "Learner",
    "Losses",
    "MixtureLossName",
    "MixtureObjective",
    "MultiTaskObjective",
    "NetworkLearner",
    "Objective",
    "OnStep",
    "OutOfFold",
    "ReweightedLanguageModeling",
    "RoutedSequenceToSequence",
    "RouterBalance",
    "SequenceToSequence",
    "SourceRouting",
    "SparseLanguageModeling",
    "StagewiseLanguageModeling",
    "StepRecord",
    "TaskWeighting",
    "TrainingOptions",
    "Votes",
    "accuracy",
    "adaboost",
    "add_up",
    "average_parameters",
    "bag",
    "balance_tasks",
    "boost",
    "calibrate_selective",
    "cheap_dropout",
    "collect_held_out",
    "combined_nats",
    "fit",
    "fit_combiner",
    "fit_em",
    "fit_experts",
    "fit_jointly",
    "fit_round",
    "fit_router",
    "fit_sentence_scorer",
    "fit_snapshots",
    "fit_stacked",
    "fit_step_sizes",
    "fit_weights",
    "gradient_boost",
    "greedy_soup",
    "is_main",
    "join_held_out",
    "keep_memory_warm",
    "label_documents",
    "language_modeling",
    "mixture_language_modeling",
    "num_processes",
    "out_of_bag_accuracy",
    "out_of_bag_nats",
    "out_of_bag_probabilities",
    "out_of_fold_logits",
    "predict_logits",
    "process_group",
    "regression",
    "resolve_precision",
    "router_alarms",
    "sample_documents",
    "sample_examples",
    "sample_span_domains",
    "sample_spans",
    "select_greedily",
    "sentence_ranking",
    "span_extraction",
    "train",
    "training_device",
    "use_short_attention",
    "validation_nats",
    "wait_for_all",
]
