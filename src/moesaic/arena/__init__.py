"""Every way of combining the same members, measured on the same documents, in one table."""

from moesaic.arena.bootstrap import Bootstrap, Interval
from moesaic.arena.budget import Budget, PlannedCost
from moesaic.arena.calibration import brier_score, expected_calibration_error
from moesaic.arena.classification import ClassificationScores, score_classifier
from moesaic.arena.cost import active_parameters, inference_flops_per_token, total_parameters, training_flops
from moesaic.arena.diversity import Diversity, diversity
from moesaic.arena.evaluate import evaluate
from moesaic.arena.expert_matrix import ExpertMatrix, expert_matrix
from moesaic.arena.measure import Measurement, measure
from moesaic.arena.router import RouterScores, route_documents, score_document_router, score_router
from moesaic.arena.rows import DENSE, ORACLE, Kind, Row, oracle_row
from moesaic.arena.scores import DocumentScores, DomainScores, Metric
from moesaic.arena.seeds import SeedTable, Spread, combine_seeds
from moesaic.arena.table import ArenaTable
from moesaic.arena.task_table import TaskReference, TaskRow, TaskTable, oracle_task_row

__all__ = [
    "DENSE",
    "ORACLE",
    "ArenaTable",
    "Bootstrap",
    "Budget",
    "ClassificationScores",
    "Diversity",
    "DocumentScores",
    "DomainScores",
    "ExpertMatrix",
    "Interval",
    "Kind",
    "Measurement",
    "Metric",
    "PlannedCost",
    "RouterScores",
    "Row",
    "SeedTable",
    "Spread",
    "TaskReference",
    "TaskRow",
    "TaskTable",
    "active_parameters",
    "brier_score",
    "combine_seeds",
    "diversity",
    "evaluate",
    "expected_calibration_error",
    "expert_matrix",
    "inference_flops_per_token",
    "measure",
    "oracle_row",
    "oracle_task_row",
    "route_documents",
    "score_classifier",
    "score_document_router",
    "score_router",
    "total_parameters",
    "training_flops",
]
