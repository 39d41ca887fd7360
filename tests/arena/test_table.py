import csv
import io

import numpy as np
import pytest
from rich.console import Console

from moesaic.arena import DENSE, ORACLE, ArenaTable, Bootstrap, DocumentScores, Row, oracle_row


def row(name, kind, news, law, active=10, tokens_per_second=100.0):
    def scores(loss):
        nats = loss * np.array([90.0, 100.0, 110.0])
        return DocumentScores(nats, np.array([100, 100, 100]), np.array([400, 400, 400]))

    return Row(name, kind, {"news": scores(news), "law": scores(law)}, 20, active, tokens_per_second, 1000)


EXPERTS = [row("expert news", "expert", 3.0, 5.0), row("expert law", "expert", 5.0, 3.1)]


def table(*more):
    rows = (*EXPERTS, oracle_row(EXPERTS, ["news", "law"]), *more)
    return ArenaTable(rows, ("news", "law"), Bootstrap(200))


MIXTURE = row("mixture", "mixture", 3.2, 3.3, active=30, tokens_per_second=50.0)


def test_the_oracle_takes_each_domains_own_expert():
    oracle = table().row(ORACLE)
    assert oracle.scores["news"].nats_per_token == pytest.approx(3.0)
    assert oracle.scores["law"].nats_per_token == pytest.approx(3.1)
    assert oracle.tokens_per_second is None


def test_rows_are_sorted_by_loss_and_by_cost():
    arena = table(MIXTURE)
    assert [entry.name for entry in arena.sorted().rows] == [ORACLE, "mixture", "expert news", "expert law"]
    assert arena.sorted("active_parameters").rows[-1].name == "mixture"
    assert arena.sorted("tokens_per_second").rows[-1].name == ORACLE


def test_the_verdict_says_what_won_and_by_how_much():
    arena = table(MIXTURE, row(DENSE, "reference", 3.2, 3.3))
    # Means: mixture and dense 3.25, expert news 4.0, oracle 3.05.
    assert arena.verdict() == (
        "Lowest loss: mixture, 3.250 [3.033, 3.413] nats per token; level with dense, same total tokens "
        "(+0.000 [+0.000, +0.000]), the next. Best sparse mixture: mixture, 0.750 [0.668, 0.838] below expert news; "
        "level with dense, same total tokens (+0.000 [+0.000, +0.000]); 0.200 [0.187, 0.210] above "
        "oracle (domain known)."
    )


def test_a_mixture_that_does_not_win_is_compared_all_the_same():
    verdict = table(MIXTURE, row(DENSE, "reference", 2.0, 2.0)).verdict()
    assert verdict.startswith("Lowest loss: dense, same total tokens, 2.000 [1.867, 2.100] nats per token; 1.250 [")
    assert "Best sparse mixture: mixture, 0.750 [0.668, 0.838] below expert news; 1.250 [" in verdict


def test_one_row_has_a_verdict_too():
    assert ArenaTable(EXPERTS[:1], ("news", "law")).verdict().startswith("Lowest loss: expert news, 4.000 [")


def printed(arena, width):
    console = Console(width=width, file=io.StringIO())
    console.print(arena.to_rich(width=width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminals_table_loses_no_figure(width):
    text = printed(table(MIXTURE), width)
    for cell in ("3.250 [3.033, 3.413]", "3.200", "3.300", "1.172", "20", "30", "50", "1k", "oracle (domain known)"):
        assert cell in text
    assert "…" not in text
    assert (text.count("way of combining") > 1) == (width == 80)


def test_the_table_is_read_back_as_it_was_written():
    arena = table(MIXTURE)
    assert ArenaTable.from_json(arena.to_json()).to_markdown() == arena.to_markdown()


def test_markdown_has_a_line_a_row():
    quality, cost = table(MIXTURE).to_markdown().split("**Cost**")
    lines = quality.strip().splitlines()[2:]
    assert lines[0] == "| way of combining | mean | news | law | vs best member | p | bits/byte |"
    assert lines[3].startswith("| mixture | 3.250 [3.033, 3.413] | 3.200 | 3.300 | -0.750 [")
    assert lines[3].endswith(" | 1.172 |")
    assert len(lines) == 2 + 4
    assert "| mixture | 20 | 30 | 50 | 1k |" in cost


def test_csv_has_full_figures_and_intervals():
    rows = list(csv.DictReader(io.StringIO(table(MIXTURE).to_csv())))
    assert float(rows[1]["mean"]) == pytest.approx(3.25)
    assert float(rows[1]["news_low"]) < 3.2 < float(rows[1]["news_high"])


def test_an_unknown_row_is_named():
    with pytest.raises(KeyError, match="The table has no row 'soup'; it has expert news, expert law, oracle"):
        table().row("soup")
