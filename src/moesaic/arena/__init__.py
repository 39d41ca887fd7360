"""Every way of combining the same members, measured on the same documents, in one table."""

from moesaic.arena.cost import active_parameters, total_parameters
from moesaic.arena.evaluate import evaluate
from moesaic.arena.measure import Measurement, measure
from moesaic.arena.scores import Bootstrap, DocumentScores, Interval
from moesaic.arena.table import DENSE, ORACLE, ArenaTable, Row, oracle_row

__all__ = [
    "DENSE",
    "ORACLE",
    "ArenaTable",
    "Bootstrap",
    "DocumentScores",
    "Interval",
    "Measurement",
    "Row",
    "active_parameters",
    "evaluate",
    "measure",
    "oracle_row",
    "total_parameters",
]
