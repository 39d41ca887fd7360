import numpy as np
import pytest

from moesaic.arena import ArenaTable, Bootstrap, DocumentScores, Row
from moesaic.arena.expert_matrix import expert_matrix


def row(name, kind, news, law):
    def scores(loss):
        return DocumentScores(loss * np.array([90.0, 110.0]), np.array([100, 100]), np.array([400, 400]))

    return Row(name, kind, {"news": scores(news), "law": scores(law)}, 20, 10, 100.0, 1000)


ROWS = [
    row("seed", "reference", 6.0, 6.0),
    row("expert news", "expert", 3.0, 5.5),
    row("expert law", "expert", 5.0, 3.1),
    row("probability average", "ensemble", 3.6, 3.7),
    row("mixture, untrained", "mixture", 4.0, 4.1),
    row("mixture, trained", "mixture", 3.2, 3.3),
]


def table(rows=ROWS):
    return ArenaTable(tuple(rows), ("news", "law"), Bootstrap(50))


def test_the_matrix_holds_experts_and_the_ways_to_choose_among_them():
    matrix = expert_matrix(table())
    assert {name: entry.name for name, entry in matrix.rows.items()} == {
        "expert news": "expert news",
        "expert law": "expert law",
        "best single: expert law": "expert law",
        "uniform": "probability average",
        "routed: mixture, trained": "mixture, trained",
        "oracle-routed": "oracle (domain known)",
    }
    lines = [line for line in matrix.to_markdown().splitlines() if line.startswith("|")]
    assert lines[0] == "| expert | news | law | mean |"
    assert lines[2].startswith("| expert news | 3.000 | 5.500 | 4.250 [")
    assert lines[-1].startswith("| oracle-routed | 3.000 | 3.100 | 3.050 [")
    assert [matrix.best_expert(domain) for domain in ("news", "law")] == ["expert news", "expert law"]


def test_rows_may_be_chosen_by_name():
    matrix = expert_matrix(table(), routed="mixture, untrained", uniform="seed")
    assert matrix.rows["routed: mixture, untrained"].name == "mixture, untrained"
    assert matrix.rows["uniform"].name == "seed"
    with pytest.raises(KeyError, match="The table has no row 'mixture'"):
        expert_matrix(table(), routed="mixture")


def test_what_was_not_measured_has_no_row():
    matrix = expert_matrix(table(ROWS[:2]))
    assert list(matrix.rows) == ["expert news", "best single: expert news"]


def test_without_experts_there_is_no_matrix():
    with pytest.raises(ValueError) as raised:
        expert_matrix(table(ROWS[:1]))
    assert str(raised.value) == (
        "The table has no expert to compare; measure the experts too (arena.combinations: experts)."
    )


def test_a_finished_run_has_its_matrix(finished):
    matrix = expert_matrix(finished[1].table)
    assert list(matrix.rows)[:2] == ["expert letters", "expert digits"]
    assert list(matrix.rows)[-1] == "oracle-routed"
