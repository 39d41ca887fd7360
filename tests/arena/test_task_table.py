import json
from dataclasses import replace

import numpy as np
import pytest

from moesaic.arena import TaskReference, TaskRow, TaskTable, oracle_task_row
from moesaic.tasks import Measured, compare_means


def row(name, de, fr, **others):
    cells = {
        domain: {"BLEU": Measured(value, value - 1, value + 1, p_value)}
        for domain, (value, p_value) in {"de": de, "fr": fr}.items()
        if value is not None
    }
    return TaskRow(name, others.pop("kind", "expert"), cells, 200, 100, 1000, dict.fromkeys(cells, 1.5))


EXPERTS = (row("expert de", (40, None), (2, 0.01)), row("expert fr", (1, 0.01), (60, None)))
TABLE = TaskTable(
    (*EXPERTS, row("mixture", (39.5, 0.3), (60, 1.0), kind="mixture"), row("ensemble (de)", (42, 0.001), (None, None))),
    ("de", "fr"),
    ("BLEU",),
    {"de": "expert de", "fr": "expert fr"},
    {"BLEU, de": "nrefs:1"},
    {"de": {"de": 0.9, "fr": 0.1}, "fr": {"de": 0.0, "fr": 1.0}},
)


def test_cells_show_the_interval_and_mark_what_differs_from_the_baseline():
    lines = TABLE.to_markdown().splitlines()
    assert "| expert de | 21.00 | 40.00 ± 1.00 | 2.00 ± 1.00* |" in lines
    assert "| mixture | 49.75 | 39.50 ± 1.00 | 60.00 ± 1.00 |" in lines
    assert "| ensemble (de) | – | 42.00 ± 1.00* | – |" in lines


def test_the_oracle_asks_each_domain_of_its_own_expert():
    oracle = oracle_task_row(EXPERTS, TABLE.domains, "oracle")
    assert {domain: cells["BLEU"].value for domain, cells in oracle.cells.items()} == {"de": 40, "fr": 60}
    assert (oracle.total_parameters, oracle.active_parameters, oracle.training_pairs) == (400, 100, 2000)


def test_the_verdict_names_the_best_system_and_says_how_good_the_router_is():
    assert TABLE.verdict() == (
        "Best on average over domains: mixture, BLEU 49.75. The router sends 95.0% of the sources to their own "
        "domain's expert."
    )
    assert "| de | 90.0% | 10.0% |" in TABLE.confusion_markdown()


def test_a_table_is_written_and_read_again():
    assert TaskTable.from_json(TABLE.to_json()) == TABLE
    assert TABLE.to_csv().splitlines()[1] == "expert de,de,BLEU,40,39,41,"


def several_tasks():
    """The same cells, but French is measured by ROUGE-1."""
    rows = []
    for one in TABLE.rows:
        cells = {"de": one.cells["de"]} | ({"fr": {"ROUGE-1": one.cells["fr"]["BLEU"]}} if "fr" in one.cells else {})
        rows.append(replace(one, cells=cells))
    metrics = {"de": ("BLEU",), "fr": ("ROUGE-1",)}
    return replace(TABLE, rows=tuple(rows), metrics=("BLEU", "ROUGE-1"), domain_metrics=metrics)


def test_with_several_tasks_a_table_says_who_gains_and_who_loses_against_the_own_expert():
    table = several_tasks()
    lines = table.to_markdown().splitlines()
    assert "| way of combining | de (BLEU) | fr (ROUGE-1) |" in lines
    assert "| way of combining | mean | de (BLEU) | fr (ROUGE-1) |" in lines
    # (39.5 - 40 + 60 - 60) / 2, and (1 - 40 + 60 - 60) / 2.
    assert "| mixture | -0.25 | -0.50 | +0.00 |" in lines
    assert "| expert fr | -19.50 | -39.00* | +0.00 |" in lines
    assert "| ensemble (de) | – | +2.00* | – |" in lines
    assert table.verdict().startswith(
        "Best on average over domains: mixture. Nowhere does it differ from the domain's own expert by more than "
        "chance."
    )
    dense = replace(row("dense", (43, 0.01), (None, None)), kind="reference")
    cells = {"de": dense.cells["de"], "fr": {"ROUGE-1": Measured(50, 49, 51, 0.02)}}
    alone = replace(table, rows=(*table.rows[:2], replace(dense, cells=cells)))
    assert alone.verdict().startswith(
        "Best on average over domains: dense. Against the domains' own experts it gains on de (+3.00 BLEU) and it "
        "loses on fr (-10.00 ROUGE-1)."
    )


def test_a_table_says_how_far_each_is_from_the_model_of_the_task_alone():
    table = replace(several_tasks(), task_references={"de": TaskReference("expert fr", {"mixture": 0.01})})
    lines = table.to_markdown().splitlines()
    start = lines.index("**change from the model of the task alone**")
    assert lines[start + 4 : start + 8] == [
        "| expert de | +39.00 |",
        "| expert fr | +0.00 |",
        "| mixture | +38.50* |",
        "| ensemble (de) | +41.00 |",
    ]
    assert TaskTable.from_json(table.to_json()) == table


def test_a_table_from_before_there_were_several_tasks_is_read():
    values = json.loads(TABLE.to_json())
    del values["domain_metrics"], values["task_references"]
    assert TaskTable.from_json(json.dumps(values)) == TABLE


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(KeyError, match="The table has no row 'other'; it has expert de, expert fr, mixture"):
        TABLE.row("other")


def test_means_are_compared_on_the_same_rows():
    generator = np.random.default_rng(0)
    base = generator.random(200)
    found = compare_means(
        {"base": base, "better": base + 0.01, "noise": generator.random(200)}, baseline="base", num_resamples=500
    )
    # Better by the same on each row: sure, however small. Other noise of the same mean: not.
    assert found["better"].p_value == pytest.approx(1 / 501)
    assert found["noise"].p_value > 0.05
    assert found["base"].low < base.mean() < found["base"].high
