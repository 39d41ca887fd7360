import pytest
import torch
from torch.nn import functional as F

from moesaic.combiners import Average, BySource, Hard
from moesaic.data import NOT_SCORED, PairBatch
from moesaic.members import Seq2SeqLM
from moesaic.seq2seq_mixture import Seq2SeqMixture
from moesaic.testing import tiny_causal_lm, tiny_seq2seq_lm
from moesaic.training import RoutedSequenceToSequence, SequenceToSequence, SourceRouting, balance_tasks
from moesaic.training import sequence_to_sequence as module

BATCH = PairBatch(
    torch.tensor([[5, 17, 8, 1], [4, 9, 1, 0], [61, 30, 22, 1]]),
    torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]),
    torch.tensor([[7, 11, 1], [5, 1, NOT_SCORED], [9, 9, 1]]),
    torch.tensor([0, 1, 1]),
)


def mixture(combiner, num_members=2):
    members = [Seq2SeqLM(f"pair-{seed}", tiny_seq2seq_lm(seed=seed)) for seed in range(num_members)]
    return Seq2SeqMixture(members, combiner)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("in_chunks", [True, False])
def test_the_loss_is_that_of_transformers_and_its_gradients_are_too(smoothing, in_chunks, monkeypatch):
    network, reference = tiny_seq2seq_lm(), tiny_seq2seq_lm()
    network.final_logits_bias.normal_()
    reference.final_logits_bias.copy_(network.final_logits_bias)
    if not in_chunks:
        monkeypatch.setattr(module, "has_plain_head", lambda network, architectures: False)
    loss = SequenceToSequence(smoothing)(network, BATCH).total
    output = reference(input_ids=BATCH.source_ids, attention_mask=BATCH.source_mask, labels=BATCH.labels)
    expected = F.cross_entropy(output.logits.flatten(0, 1), BATCH.labels.flatten(), label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for parameter, other in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_router_learns_the_domains_without_running_a_member():
    network = mixture(BySource(choice=Hard()))
    optimizer = torch.optim.Adam(network.combiner.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss = SourceRouting()(network, BATCH).total
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert all(parameter.grad is None for parameter in network.members.parameters())
    chosen = network.combiner.route_source(BATCH.source_ids, BATCH.source_mask.bool()).weights.argmax(-1)
    assert chosen.tolist() == [0, 1, 1]


def test_joint_training_is_the_loss_of_each_source_under_its_own_member():
    network = mixture(BySource(choice=Hard(), seed=1)).eval()
    output = network(input_ids=BATCH.source_ids, attention_mask=BATCH.source_mask, labels=BATCH.labels)
    assert len(output.routing.weights[:, 0].argmax(-1).unique()) == 2
    losses = RoutedSequenceToSequence(label_smoothing=0.0, router_domain_loss_coef=0.5)(network, BATCH)
    torch.testing.assert_close(losses.parts["cross_entropy"], output.loss)
    torch.testing.assert_close(losses.total, output.loss + 0.5 * losses.parts["router_domain"])


def test_balanced_tasks_count_the_same_however_many_tokens_their_targets_have():
    network = tiny_seq2seq_lm().eval()
    # Three tokens of the first task, five of the second.
    weights = balance_tasks([3, 5], ["translate", "answer"])
    assert weights == (8 / 6, 8 / 10)
    alone = [SequenceToSequence(0.0)(network, BATCH.take(rows)).total for rows in (slice(0, 1), slice(1, 3))]
    balanced = SequenceToSequence(0.0, weights)(network, BATCH).total
    torch.testing.assert_close(balanced, (alone[0] + alone[1]) / 2)
    routed = mixture(BySource(choice=Hard(), seed=1)).eval()
    plain, same = (RoutedSequenceToSequence(0.1, 0.5, given)(routed, BATCH).total for given in (None, (1.0, 1.0)))
    torch.testing.assert_close(same, plain)


def router_of(combiner, task):
    """The weights and the bias of a task's router; the last is that of sources without a task."""
    own = combiner.router.weight.unflatten(1, (len(combiner.task_tokens) + 1, -1))[:, task]  # (member, width + 1)
    return own[:, :-1], own[:, -1] + combiner.router.bias


def test_each_task_has_a_router_of_its_own_over_the_same_members():
    network = mixture(BySource(choice=Hard(), task_tokens=(5, 4), router_width=8))
    scores = network.combiner.score(BATCH.source_ids, BATCH.source_mask.bool())
    for row, task in enumerate((0, 1, 2)):  # the last row has neither token
        weight, bias = router_of(network.combiner, task)
        features = network.combiner.embedding(BATCH.source_ids[row][BATCH.source_mask[row].bool()]).mean(dim=0)
        torch.testing.assert_close(scores[row], weight @ features + bias)
    scores[1].sum().backward()
    gradient = network.combiner.router.weight.grad.unflatten(1, (3, 9))
    assert gradient[:, (0, 2)].abs().max() == 0 < gradient[:, 1].abs().max()


def test_the_first_task_token_of_a_source_says_whose_router_it_is():
    combiner = mixture(BySource(choice=Hard(), task_tokens=(5, 4), router_width=8)).combiner
    sources = torch.tensor([[0, 5, 6, 4], [4, 5, 5, 7]])
    scores = combiner.score(sources, torch.ones_like(sources).bool())
    for row, task in enumerate((0, 1)):  # the other task's token is a part of the text
        weight, bias = router_of(combiner, task)
        torch.testing.assert_close(scores[row], weight @ combiner.embedding(sources[row]).mean(dim=0) + bias)


@pytest.mark.parametrize("task_tokens, chosen", [((5, 4), 1), ((), 0)])
def test_what_is_asked_for_decides_where_the_words_speak_for_another(task_tokens, chosen):
    # Five words that both tasks have, and five of their own, as sentences about different things have.
    words = torch.randint(0, 10, (64, 10), generator=torch.Generator().manual_seed(0))
    own = torch.arange(10) < 5
    first, second = (10 + words + own * offset for offset in (20, 40))
    sources = torch.cat([torch.cat([torch.full((64, 1), tag), own], 1) for tag, own in ((5, first), (4, second))])
    domains = torch.arange(2).repeat_interleave(64)
    batch = PairBatch(sources, torch.ones_like(sources), sources, domains)
    network = mixture(BySource(choice=Hard(), task_tokens=task_tokens))
    optimizer = torch.optim.Adam(network.combiner.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        SourceRouting()(network, batch).total.backward()
        optimizer.step()

    def answers(sources):
        return network.combiner.route_source(sources, torch.ones_like(sources).bool()).weights.argmax(-1)

    assert answers(sources).equal(domains)
    # The second task is asked of the first's words, which no source of the training did.
    unseen = torch.cat([torch.full((64, 1), 4), first], dim=1)
    assert answers(unseen).eq(chosen).all()


def test_a_mixture_without_a_router_over_sources_is_refused():
    message = r"^The mixture's combiner is 'average', which has no router that reads the source\. Use 'by_source'\.$"
    with pytest.raises(ValueError, match=message):
        SourceRouting()(mixture(Average()), BATCH)


@pytest.mark.parametrize("in_chunks", [True, False])
def test_a_causal_model_reads_source_and_target_as_one_text(in_chunks, monkeypatch):
    network = tiny_causal_lm()
    if not in_chunks:
        monkeypatch.setattr(module, "has_plain_head", lambda network, architectures: False)
    loss = SequenceToSequence(0.0)(network, BATCH).total
    nats = []
    for source, mask, labels in zip(BATCH.source_ids, BATCH.source_mask, BATCH.labels, strict=True):
        text = torch.cat([source[mask.bool()], labels[labels != NOT_SCORED]])
        num_scored = int((labels != NOT_SCORED).sum())
        logits = network(input_ids=text[None]).logits[0, -num_scored - 1 : -1]
        nats.append(F.cross_entropy(logits, text[-num_scored:], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(nats).mean())
