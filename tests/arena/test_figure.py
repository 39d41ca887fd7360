import re

import numpy as np
import pytest
from matplotlib.image import imread

from moesaic.arena import ORACLE, ArenaTable, Bootstrap, DocumentScores, Row, combine_seeds, oracle_row
from moesaic.arena.figure import draw_front, pareto_front, save_front


def row(name, kind, loss, active):
    nats = loss * np.array([90.0, 100.0, 110.0])
    scores = DocumentScores(nats, np.array([100, 100, 100]), np.array([400, 400, 400]))
    return Row(name, kind, {"news": scores}, active, active, 100.0, 1000)


def table(shift=0.0):
    expert = row("expert news", "expert", 4.0 + shift, 10)
    rows = (
        expert,
        oracle_row([expert], ["news"]),
        row("average", "ensemble", 3.5 + shift, 40),
        row("mixture", "mixture", 3.0 + shift, 20),
        row("dense", "reference", 3.2 + shift, 10),
    )
    return ArenaTable(rows, ("news",), Bootstrap(50))


def texts(figure):
    return {text.get_text(): text for axes in figure.axes for text in axes.texts}


def test_the_front_has_no_row_that_another_beats_at_both():
    assert pareto_front([(10, 4.0), (40, 3.5), (20, 3.0), (10, 3.2)]) == [3, 2]
    assert pareto_front([(1, 1.0), (1, 1.0)]) == [0]


@pytest.mark.parametrize("shown", [table(), combine_seeds([table(), table(0.1)])], ids=["one seed", "two seeds"])
def test_every_row_is_named_and_those_on_the_front_in_bold(shown):
    named = texts(draw_front(shown))
    bold = {name for name, text in named.items() if text.get_fontweight() == "bold"}
    assert {entry.name for entry in shown.rows} <= named.keys()
    assert bold == {"dense", "mixture"}


def test_the_line_is_the_front_from_the_cheapest_row_on():
    line = max(draw_front(table()).axes[0].lines, key=lambda line: len(line.get_xdata()) > 2)
    assert line.get_ydata().tolist() == [3.2, 3.0, 3.0]
    assert line.get_xdata().tolist()[:2] == [10, 20]


def test_points_and_names_share_their_numbers_the_best_first():
    axes, names = draw_front(table()).axes
    order = [text.get_text() for text in names.texts if not text.get_text().isdigit()]
    assert order == ["mixture", "dense", "average", "expert news", ORACLE]
    place = {text.get_text(): text.xy for text in axes.texts}
    assert place["1"] == pytest.approx((20, 3.0))
    assert place["2"] == pytest.approx((10, 3.2))


def test_the_same_table_gives_the_same_picture(tmp_path):
    for name in ("first.svg", "second.svg", "front.png"):
        save_front(table(), tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    picture = imread(tmp_path / "front.png")
    assert picture.shape[1] == 1500
    assert picture.std() > 0.05  # something is drawn


def test_other_endings_are_refused(tmp_path):
    path = tmp_path / "front.gif"
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: a picture of the arena ends in .png or .svg.$"):
        save_front(table(), path)
