import json
import re

import pytest
import torch

import moesaic
from moesaic.combiners import Weighted
from moesaic.explanation import RoutingMap, map_routing
from moesaic.members import CausalLM
from moesaic.mixture import Mixture


@pytest.fixture(scope="module")
def page(finished):
    return finished[1].report.read_text()


def facts(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_asks_nothing_of_the_network(page):
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.|\bsrc=|<link|@import|fetch\(|XMLHttpRequest|url\(", without_names)


def test_the_page_holds_the_table_the_curves_and_the_maps(finished, page):
    data = facts(page)
    assert [row["name"] for row in data["rows"]] == [row.name for row in finished[1].table.sorted().rows]
    assert set(data["curves"]) == {"seed", "expert-letters", "expert-digits", "router", "joint", "dense"}
    assert data["curves"]["seed"][-1][0] == 12 * 128
    assert data["recipe"] == finished[0].read_text()
    assert len(data["routing"]["weight"]) == 2
    for layer in data["routing"]["weight"]:
        for shares in layer:
            assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_the_page_holds_the_expert_matrix(finished, page):
    matrix = facts(page)["matrix"]
    assert [row["name"] for row in matrix[:2]] == ["expert letters", "expert digits"]
    oracle, experts = matrix[-1]["domains"], [row["domains"] for row in matrix[:2]]
    assert matrix[-1]["name"] == "oracle-routed"
    assert oracle == [experts[0][0], experts[1][1]]


def test_text_in_the_data_cannot_end_the_script(finished, tmp_path):
    from moesaic.explanation import write_report

    write_report(
        tmp_path / "page.html",
        title="</script><b>bold",
        table=finished[1].table,
        histories={},
        routing_map=None,
        recipe="<!-- </script>",
        versions={},
    )
    data = facts((tmp_path / "page.html").read_text())
    assert (data["title"], data["recipe"], data["routing"]) == ("</script><b>bold", "<!-- </script>", None)


def test_an_expert_that_gets_nothing_is_named():
    weight = [[[0.6, 0.395, 0.005], [0.5, 0.5, 0.0]]]
    routing = RoutingMap(["news", "law"], ["a", "b", "c"], weight, weight, [[0.5, 0.5]])
    assert routing.warnings() == [
        "Layer 0: expert c gets 0.2% of the weight, as good as nothing. Raise joint.router_aux_loss_coef, or train the "
        "router longer."
    ]


def test_a_router_that_prefers_an_expert_is_seen_to(finished):
    from moesaic.data import evaluation_blocks, pack_documents
    from moesaic.moe import find_gates

    member = moesaic.load_member(finished[1].folder)
    for gate in find_gates(member.network):
        torch.nn.init.zeros_(gate.weight)
    blocks = {"text": evaluation_blocks(pack_documents(["the cat sat"] * 8, member.tokenizer), sequence_length=16)}
    routing = map_routing(member.network, blocks, ["letters", "digits"], batch_size=2)
    # All scores are 0: both experts are used, each with half of the weight, and the router is undecided.
    assert routing.weight == [[[pytest.approx(0.5)] * 2]] * 2
    assert routing.entropy == [[pytest.approx(1)]] * 2


def test_generate_repeats_itself_and_says_who_wrote(finished):
    first, second = (moesaic.generate(finished[1].folder, "the cat", max_new_tokens=8) for _ in range(2))
    assert first == second
    assert set(first.shares) == {"letters", "digits"}
    assert sum(first.shares.values()) == pytest.approx(1, abs=1e-4)


def test_random_answers_follow_the_seed(finished):
    def answer(seed):
        return moesaic.generate(finished[1].folder, "the", max_new_tokens=20, temperature=1.5, seed=seed).text

    assert answer(1) == answer(1) != answer(2)


def test_a_mixture_of_whole_models_says_who_wrote(finished, tmp_path):
    stages = finished[1].folder / "stages"
    members = [moesaic.load_member(stages / f"expert-{name}" / "model", name=name) for name in ("letters", "digits")]
    mixture = Mixture(members, Weighted((0.25, 0.75)))
    mixture.save_pretrained(tmp_path)
    members[0].tokenizer.save_pretrained(tmp_path)
    answer = moesaic.generate(tmp_path, "the cat", max_new_tokens=3)
    assert answer.shares == {"letters": pytest.approx(0.25), "digits": pytest.approx(0.75)}
    assert str(answer).endswith("written by digits 75%, letters 25%")


def test_a_dense_model_has_no_shares(finished):
    answer = moesaic.generate(finished[1].folder / "stages" / "seed" / "model", "the", max_new_tokens=2)
    assert answer.shares == {} and str(answer) == "the" + answer.text


def test_a_model_without_tokenizer_cannot_read(members, tmp_path):
    CausalLM("a", members[0].network).network.save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        moesaic.generate(tmp_path, "the")
    assert str(error.value) == f"{tmp_path}: there is no tokenizer, so text cannot be read."
