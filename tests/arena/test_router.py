import numpy as np
import pytest
import torch
from torch import nn

from moesaic import Mixture, RoutedMixture
from moesaic.arena.router import route_documents, score_document_router, score_router
from moesaic.combiners import Average, Weighted
from moesaic.data import evaluation_blocks, pack_documents
from moesaic.members import ModuleMember
from moesaic.moe import read_routing
from moesaic.testing import tiny_causal_lm, tiny_mixtral, tiny_tokenizer
from moesaic.testing.tiny import SENTENCES

DOMAINS = ["news"] * 4 + ["law"] * 3
EXPERTS = ["news", "law", "general"]


@pytest.fixture(scope="module")
def blocks():
    """Documents of two domains; some are longer than a window."""
    texts = {"news": [SENTENCES[0] * 3, SENTENCES[1]], "law": [SENTENCES[2], SENTENCES[3] * 4, SENTENCES[0]]}
    tokenizer = tiny_tokenizer()
    return {
        name: evaluation_blocks(pack_documents(documents, tokenizer), sequence_length=16)
        for name, documents in texts.items()
    }


def test_figures_and_matrix_are_those_of_a_classifier():
    # Of news: three right, one to general. Of law: two right, one to news.
    choices = [0, 0, 0, 2, 1, 1, 0]
    scores = score_router(torch.eye(3)[choices], DOMAINS, EXPERTS, num_resamples=200)
    assert scores.domains == ("news", "law")
    assert scores.confusion.tolist() == [[3, 0, 1], [1, 2, 0]]
    assert scores.interval("accuracy").value == pytest.approx(5 / 7)
    assert scores.interval("macro_precision").value == pytest.approx((3 / 4 + 2 / 2) / 2)
    assert scores.interval("macro_recall").value == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert scores.interval("macro_f1").value == pytest.approx((2 * 3 / (4 + 4) + 2 * 2 / (3 + 2)) / 2)
    assert "| news | 3 | 0 | 1 |" in scores.to_markdown()
    assert scores.summary().startswith("The router as a classifier of 7 documents: accuracy 0.714 [")


def test_a_router_that_makes_no_mistake_has_only_a_diagonal():
    scores = score_router(torch.eye(3)[[0, 0, 0, 0, 1, 1, 1]], DOMAINS, EXPERTS)
    assert scores.confusion.tolist() == [[4, 0, 0], [0, 3, 0]]
    assert str(scores.interval("macro_f1")) == "1.000 [1.000, 1.000]"


def test_domains_need_an_expert_of_their_name():
    with pytest.raises(ValueError) as raised:
        score_router(torch.eye(3), ["news", "sports", "law"], EXPERTS)
    assert str(raised.value) == (
        "Domain 'sports' has no expert of its name; there are news, law, general. Give every domain the name of the "
        "expert that should answer it."
    )
    with pytest.raises(
        ValueError, match=r"^weights must be of 1 documents and 3 experts, as many as there are domains"
    ):
        score_router(torch.eye(3), ["news"], EXPERTS)


def test_a_document_counts_by_its_own_tokens(blocks):
    network = tiny_mixtral()
    found = route_documents(network, blocks["law"], batch_size=2)
    assert found.shape == (3, 4)
    assert torch.allclose(found.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-6)
    documents = blocks["law"]
    logits = network(documents.input_ids, output_router_logits=True).router_logits
    weights = read_routing(logits, network.config).weights.mean(0).unflatten(0, documents.input_ids.shape)
    for number in range(3):
        of_document = (documents.document_index == number) & (documents.labels != -100)
        assert torch.allclose(found[number], weights[of_document].double().mean(0), atol=1e-6)


def test_static_weights_send_every_document_to_the_heaviest(members, blocks):
    mixture = Mixture(members, Weighted([0.2, 0.5, 0.3]))
    documents = {"news": blocks["news"], "law": blocks["law"]}
    scores = score_document_router(mixture, documents, batch_size=2, num_resamples=20)
    assert scores.experts == ("general", "news", "law")
    assert scores.confusion.tolist() == [[0, 2, 0], [0, 3, 0]]


def test_a_sparse_model_is_scored_by_its_experts_names(blocks):
    network = tiny_mixtral()
    network.config.expert_names = ["news", "law", "code", "talk"]
    scores = score_document_router(network, blocks, num_resamples=20)
    assert scores.confusion.sum(1).tolist() == [2, 3]
    choices = torch.cat([route_documents(network, documents).argmax(1) for documents in blocks.values()])
    assert np.array_equal(scores.scores.predictions, choices.numpy())


def test_a_routed_mixture_is_scored_by_what_it_routes():
    router = nn.Linear(1, 2)
    router.load_state_dict({"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)})
    members = [ModuleMember(name, nn.Linear(1, 3)) for name in ("low", "high")]
    mixture = RoutedMixture(members, router, top_k=1)
    inputs = torch.tensor([[-3.0], [-1.0], [2.0], [-4.0]])
    with torch.no_grad():
        weights = mixture.route(inputs).weights
    scores = score_router(weights, ["low", "low", "high", "high"], mixture.member_names, num_resamples=20)
    assert scores.confusion.tolist() == [[2, 0], [1, 1]]


def test_what_has_no_experts_routes_nothing(members, blocks):
    with pytest.raises(ValueError) as raised:
        route_documents(tiny_causal_lm(), blocks["law"])
    assert str(raised.value) == (
        "LlamaForCausalLM has no experts, so it routes nothing. Give a sparse model or a mixture."
    )
    assert route_documents(Mixture(members, Average()), blocks["law"])[0].tolist() == pytest.approx([1 / 3] * 3)
