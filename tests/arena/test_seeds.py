import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console

from moesaic.arena import ORACLE, ArenaTable, Bootstrap, DocumentScores, Row, SeedTable, combine_seeds, oracle_row

DOMAINS = ("news", "law")


def row(name, kind, news, law):
    def scores(loss):
        nats = loss * np.array([90.0, 100.0, 110.0])
        return DocumentScores(nats, np.array([100, 100, 100]), np.array([400, 400, 400]))

    return Row(name, kind, {"news": scores(news), "law": scores(law)}, 20, 10, 100.0, 1000)


def table(shift, *, mixture=3.2, domains=DOMAINS, name="mixture"):
    """A seed's table: every loss is higher by ``shift``, and the mixture has one of its own."""
    experts = [row("expert news", "expert", 3.0 + shift, 5.0 + shift), row("expert law", "expert", 5.0, 3.5)]
    rows = (*experts, oracle_row(experts, DOMAINS), row(name, "mixture", mixture, mixture))
    return ArenaTable(rows, domains, Bootstrap(200))


SEEDS = combine_seeds([table(0.0), table(0.1, mixture=3.3), table(0.2, mixture=3.7)])


def test_a_figure_over_seeds_is_mean_and_sample_deviation():
    assert str(SEEDS.mean(SEEDS.tables[0].row("mixture"))) == "3.400 ± 0.265"  # of 3.2, 3.3 and 3.7
    spread = SEEDS.spread(SEEDS.tables[0].row("mixture"), "mean")
    assert (spread.low, spread.high) == pytest.approx((3.2, 3.7))


def test_the_best_member_is_the_same_for_all_seeds_and_differences_are_paired():
    # Expert news has 4.0, 4.1 and 4.2, expert law 4.25 each: the mixture is 0.8, 0.8 and 0.5 below.
    assert SEEDS.best_member.name == "expert news"
    difference = SEEDS.spread(SEEDS.tables[0].row("mixture"), "difference")
    assert difference.value == pytest.approx(-0.7)
    assert difference.deviation == pytest.approx(np.std([0.8, 0.8, 0.5], ddof=1))


def test_a_p_value_of_one_seed_is_left_out():
    assert "p_value" in {column.key for column in SEEDS.tables[0].columns}
    assert "p_value" not in {column.key for column in SEEDS.columns}


def test_the_verdict_names_the_winner_the_oracle_left_out():
    assert SEEDS.verdict() == (
        "Lowest loss over 3 seeds: mixture, 3.400 ± 0.265 nats per token; -0.700 ± 0.173 against expert news, the best "
        "member."
    )


def test_pages_sheets_and_terminals_show_mean_and_deviation():
    assert "| 3.400 ± 0.265 |" in SEEDS.to_markdown()
    assert "over 3 seeds" in SEEDS.to_markdown()
    sheet = {entry["name"]: entry for entry in csv.DictReader(io.StringIO(SEEDS.to_csv()))}
    assert list(sheet) == [ORACLE, "mixture", "expert news", "expert law"]
    assert float(sheet["mixture"]["mean_max"]) == pytest.approx(3.7)
    assert float(sheet["mixture"]["mean_deviation"]) == pytest.approx(0.2646, abs=1e-4)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(SEEDS.to_rich(width=120))
    assert "3.400 ± 0.265" in capture.get()


def test_seeds_are_read_back_as_they_were_written():
    assert SeedTable.from_json(SEEDS.to_json()).to_markdown() == SEEDS.to_markdown()


def test_one_seed_has_no_spread():
    with pytest.raises(ValueError, match=r"^A spread over seeds needs at least two tables, got 1\.$"):
        combine_seeds([table(0.0)])


def test_seeds_have_the_same_domains_and_rows():
    sentence = "Table 2 has the domains law, news, the first news, law; measure all seeds on the same ones."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        combine_seeds([table(0.0), table(0.1, domains=("law", "news"))])
    sentence = "Table 2 and the first do not have the same rows: only one has dense, mixture."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        combine_seeds([table(0.0), table(0.1, name="dense")])
