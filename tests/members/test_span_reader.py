import pytest
import torch
from safetensors.torch import load_file, save_file

from moesaic.combiners import Average
from moesaic.data import train_reader_tokenizer
from moesaic.errors import CheckpointError, DataError
from moesaic.members import ModuleMember, SpanReader, TokenRouter, load_span_reader, read_spans
from moesaic.module_mixture import ModuleMixture
from moesaic.routed_mixture import RoutedMixture
from moesaic.tasks import Question, best_spans, exact_match, tokenize_spans
from moesaic.testing import tiny_seq2seq_lm, tiny_span_model
from moesaic.training import (
    MIXTURE_ROUTER_ONLY,
    Classification,
    TrainingOptions,
    fit,
    sample_span_domains,
    sample_spans,
    span_extraction,
)

NAMES = ("ann", "ben", "carl", "dora", "emil", "fred")


def ask(sentence, verb, name):
    context = sentence.format(name)
    start = context.index(name)
    return Question(f"Who {verb}?", context, (name,), ((start, start + len(name)),), domain=verb)


SANG = [ask("In the hall it was {} who sang for all of us.", "sang", name) for name in NAMES]
RAN = [ask("On the long road {} ran home alone.", "ran", name) for name in NAMES]


@pytest.fixture(scope="module")
def tokenizer():
    return train_reader_tokenizer([q.question + " " + q.context for q in SANG + RAN], 200)


def windows_of(questions, tokenizer, max_length=20):
    return tokenize_spans(questions, tokenizer, max_length=max_length, stride=2, max_question_tokens=4)


def make_members(num=2):
    return [ModuleMember(f"expert-{seed}", SpanReader(tiny_span_model(seed=seed))) for seed in range(num)]


def test_a_reader_learns_to_find_answers(tokenizer):
    windows = windows_of(SANG + RAN, tokenizer, max_length=13)  # two windows a question or three
    assert len(windows) > len(SANG + RAN)
    reader = SpanReader(tiny_span_model(initializer_range=0.05))
    options = TrainingOptions(num_steps=60, batch_size=8, learning_rate=5e-3, num_warmup_steps=5)
    history = fit(reader, sample_spans(windows, batch_size=8, seed=0), span_extraction, options)
    assert history[-1].loss < 0.5 * history[0].loss
    answers = best_spans(SANG + RAN, windows, read_spans(reader, windows).log_probabilities)
    right = [exact_match(answer.text, q.answers) for answer, q in zip(answers, SANG + RAN, strict=True)]
    assert sum(right) >= 10


def test_batches_and_padding_change_nothing(tokenizer):
    windows = windows_of(SANG + RAN, tokenizer)
    reader = SpanReader(tiny_span_model())
    alone = read_spans(reader, windows, batch_size=1).log_probabilities
    together = read_spans(reader, windows, batch_size=64).log_probabilities
    torch.testing.assert_close(alone, together)
    longer = windows_of(SANG + RAN, tokenizer, max_length=40)
    torch.testing.assert_close(read_spans(reader, longer).log_probabilities[:, :, :20], together)


def test_the_mean_of_readers_is_the_mean_of_where_answers_begin_and_of_where_they_end(tokenizer):
    windows = windows_of(SANG, tokenizer)
    members = make_members(3)
    read = read_spans(ModuleMixture(members, Average("probability")), windows)
    each = torch.stack([read_spans(member.network, windows).log_probabilities.exp() for member in members])
    torch.testing.assert_close(read.log_probabilities.exp(), each.mean(dim=0))
    torch.testing.assert_close(read.weights, torch.full((len(windows), 3), 1 / 3))


def test_one_member_mixture_equals_that_member(tokenizer):
    windows = windows_of(SANG, tokenizer)
    [member] = make_members(1)
    mixture = RoutedMixture([member], TokenRouter(len(tokenizer), 1), top_k=1)
    torch.testing.assert_close(
        read_spans(mixture, windows).log_probabilities, read_spans(member.network, windows).log_probabilities
    )


def test_a_router_learns_domains_and_only_the_chosen_member_runs(tokenizer):
    questions = SANG + RAN
    windows = windows_of(questions, tokenizer, max_length=13)
    mixture = RoutedMixture(make_members(), TokenRouter(len(tokenizer), 2), top_k=1)
    domains = torch.tensor([0] * len(SANG) + [1] * len(RAN))
    options = TrainingOptions(num_steps=20, batch_size=8, learning_rate=0.1, num_warmup_steps=1)
    sampler = sample_span_domains(windows, domains, batch_size=8, seed=0)
    fit(mixture.router, sampler, Classification(), options)
    read = read_spans(mixture, windows)
    # Every window of a question has the question's own member.
    assert read.weights.argmax(dim=1).tolist() == domains[windows.question_index].tolist()

    rows = []
    for member in mixture.members:
        member.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    read_spans(mixture, windows)
    assert sum(rows) == len(windows)


def test_router_and_readers_learn_together(tokenizer):
    windows = windows_of(SANG + RAN, tokenizer)
    mixture = RoutedMixture(make_members(), TokenRouter(len(tokenizer), 2))
    sampler = sample_spans(windows, batch_size=4, seed=0)
    options = TrainingOptions(num_steps=8, batch_size=4, learning_rate=1e-3, num_warmup_steps=1)
    before = mixture.router.table.clone()
    everything = sample_spans(windows, batch_size=len(windows), seed=0).batch(0)
    losses = [span_extraction(mixture.eval(), everything).total]
    fit(mixture, sampler, span_extraction, options)
    losses.append(span_extraction(mixture, everything).total)
    assert losses[1] < losses[0]
    assert not mixture.router.table.equal(before)
    frozen = [parameter.clone() for parameter in mixture.members.parameters()]
    only_router = TrainingOptions(num_steps=2, batch_size=4, learning_rate_scales=MIXTURE_ROUTER_ONLY)
    fit(mixture, sampler, span_extraction, only_router)
    assert all(old.equal(new) for old, new in zip(frozen, mixture.members.parameters(), strict=True))


def test_a_reader_is_loaded_from_a_folder(tmp_path, tokenizer):
    model = tiny_span_model()
    model.save_pretrained(tmp_path)
    windows = windows_of(SANG, tokenizer)
    loaded = read_spans(load_span_reader(tmp_path), windows)
    assert loaded.log_probabilities.equal(read_spans(SpanReader(model), windows).log_probabilities)
    assert loaded.weights is None


def test_an_encoder_without_a_head_gets_one_and_a_damaged_or_unfit_checkpoint_is_refused(tmp_path, tokenizer):
    model = tiny_span_model()
    model.base_model.save_pretrained(tmp_path / "encoder")
    reader = load_span_reader(tmp_path / "encoder")
    embeddings = [network.get_input_embeddings().weight for network in (reader.network, model)]
    assert embeddings[0].equal(embeddings[1])

    tensors = load_file(tmp_path / "encoder" / "model.safetensors")
    gone = "encoder.layer.1.output.dense.weight"
    del tensors[gone]
    save_file(tensors, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load_span_reader(tmp_path / "encoder")
    assert str(error.value) == f"{tmp_path / 'encoder'}: plain Transformers does not load it whole: bert.{gone}."

    tiny_seq2seq_lm().save_pretrained(tmp_path / "translator")
    with pytest.raises(CheckpointError) as error:
        load_span_reader(tmp_path / "translator")
    assert str(error.value) == (
        f"{tmp_path / 'translator'}: Transformers has no AutoModelForQuestionAnswering for this architecture. Use an "
        "encoder, such as BERT."
    )


def test_domains_are_one_a_question(tokenizer):
    windows = windows_of(SANG, tokenizer)
    with pytest.raises(DataError, match=r"^There are 6 questions and 2 domains; give one domain each\.$"):
        sample_span_domains(windows, torch.tensor([0, 1]), batch_size=2, seed=0)
