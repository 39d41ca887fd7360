"""The road of a task from checkpoints that a user brings: of which architecture and with which tokenizer, they say."""

import json
import re
import sys
from itertools import islice, product

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    MarianTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

import moesaic
from moesaic.answering import RoutedWritingAnswerer
from moesaic.data import Pair, TokenizedPairs, train_pair_tokenizer, train_tokenizer
from moesaic.errors import CheckpointError, DataError, RecipeError
from moesaic.members import AdaptedLM, load_member, load_network, load_tokenizer
from moesaic.recipe import load_recipe
from moesaic.testing import tiny_causal_lm, tiny_seq2seq_lm

WORDS = {"one": ("1", "a"), "two": ("2", "b"), "three": ("3", "c"), "four": ("4", "d")}
TEXTS = [f"{word} {digit} {letter} translate to" for word, (digit, letter) in WORDS.items()]
STEPS = {"num_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "num_warmup_steps": 1}


def t5(vocab_size, *, tied, seed=0):
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        initializer_factor=3.0,
    )
    return T5ForConditionalGeneration(config)


def gpt2(vocab_size, seed=0):
    torch.manual_seed(seed)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, bos_token_id=0, eos_token_id=0, **sizes))


MAKE = {
    "t5": lambda size, seed=0: t5(size, tied=True, seed=seed),
    "t5-untied": lambda size, seed=0: t5(size, tied=False, seed=seed),
    "marian": lambda size, seed=0: tiny_seq2seq_lm(vocab_size=size, seed=seed),
    "llama": lambda size, seed=0: tiny_causal_lm(vocab_size=size, seed=seed),
    "gpt2": gpt2,
}


def save(folder, architecture, *, seed=0, texts=TEXTS):
    """A checkpoint as a user has it: a model and its tokenizer, which ends texts where there is an encoder."""
    train = train_tokenizer if architecture in ("llama", "gpt2") else train_pair_tokenizer
    tokenizer = train(texts, 280)
    MAKE[architecture](len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_opus(folder):
    """A checkpoint with the files of opus-mt: a SentencePiece model of what is read, and one of what is written."""
    folder.mkdir()
    texts = {"source": ["translate to digits: letters", *WORDS], "target": ["1 2 3 4", "a b c d"]}
    pieces = {}
    for side, of_side in texts.items():
        (folder / f"{side}.txt").write_text("\n".join(of_side * 20))
        options = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
        SentencePieceTrainer.train(input=folder / f"{side}.txt", model_prefix=folder / side, **options)
        processor = SentencePieceProcessor(model_file=str((folder / f"{side}.model").rename(folder / f"{side}.spm")))
        pieces |= dict.fromkeys(processor.id_to_piece(list(range(len(processor)))))
    own = [piece for piece in pieces if not piece.startswith("<")]
    vocabulary = {piece: token for token, piece in enumerate(["</s>", "<unk>", *own, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    files = [str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")]
    MarianTokenizer(*files, source_lang="en", target_lang="di").save_pretrained(folder)
    pad = vocabulary["<pad>"]
    sizes = {"vocab_size": len(vocabulary), "eos_token_id": 0, "pad_token_id": pad, "decoder_start_token_id": pad}
    tiny_seq2seq_lm(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path):
    """Two toy language pairs, without a model."""
    for number, language in enumerate(("di", "le")):
        rows = [
            {"source": " ".join(words), "target": " ".join(WORDS[word][number] for word in words)}
            for words in islice(product(WORDS, repeat=3), 60)
        ]
        (tmp_path / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    domains = [
        {"name": name, "source": {"type": "jsonl", "path": f"{code}.jsonl"}, "fields": {"target_lang": code}}
        for name, code in {"digits": "di", "letters": "le"}.items()
    ]
    values = {
        "task": {
            "type": "translation",
            "template": "translate to {language}: {source}",
            "language_names": {"di": "digits", "le": "letters"},
        },
        "data": {"domains": domains, "max_source_tokens": 40, "max_target_tokens": 8, "test_fraction": 0.2},
        "model": {"type": "checkpoint"},
        "experts": {"training": STEPS},
        "router": {"training": STEPS},
        "decoding": {"num_beams": 2},
        "arena": {"num_resamples": 10, "max_examples": 2},
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(values))
    return tmp_path / "toy.yaml"


def run(recipe, *settings, folder="run", **options):
    return moesaic.run(recipe, settings=settings, folder=recipe.parent / folder, quiet=True, **options)


def answers(result, system, domain):
    return json.loads((result.folder / "answers" / system / "answers.json").read_text())["texts"][domain]


@torch.no_grad()
def written_by_transformers(folder, sources, **options):
    """What plain Transformers has the checkpoint write, source by source."""
    network, tokenizer = load_network(folder), load_tokenizer(folder)
    texts = []
    for source in sources:
        inputs = tokenizer(source, return_tensors="pt")
        defaults = {"num_beams": 2, "do_sample": False, "max_new_tokens": 8, "pad_token_id": tokenizer.pad_token_id}
        arguments = {"attention_mask": inputs["attention_mask"], **defaults, **options}
        tokens = network.generate(inputs["input_ids"], **arguments)[0]
        if not network.config.is_encoder_decoder:
            tokens = tokens[inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return texts


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_experts_can_be_taken_as_they_are(recipe, tmp_path, architecture):
    folders = {name: save(tmp_path / name, architecture, seed=seed) for seed, name in enumerate(("digits", "letters"))}
    names = [f"model.names.{name}={folder}" for name, folder in folders.items()]
    result = run(recipe, *names, "experts.training.num_steps=0")
    sources = [
        json.loads(line)["source"]
        for line in (result.folder / "stages/data/digits.test.jsonl").read_text().splitlines()
    ]
    assert sources[0].startswith("translate to digits: ")
    for name, folder in folders.items():
        assert answers(result, f"expert-{name}", "digits") == written_by_transformers(folder, sources)
    assert [row.name for row in result.task_table.rows] == [
        "expert digits",
        "expert letters",
        "own expert (domain known)",
        "average of the experts",
        "mixture, one expert a source",
    ]
    assert {row.training_pairs for row in result.task_table.rows} == {0}


@pytest.mark.parametrize("architecture", ["t5-untied", "gpt2"])
def test_all_models_start_from_one_checkpoint(recipe, tmp_path, architecture):
    folder = save(tmp_path / "base", architecture)
    result = run(recipe, f"model.name={folder}", f"joint={json.dumps(STEPS)}")
    base = load_network(folder).state_dict()
    trained = load_network(result.folder / "stages/expert-digits/model").state_dict()
    assert base.keys() == trained.keys()
    largest = max((base[name] - trained[name]).abs().max() for name in base)
    assert 0 < largest < 0.01  # two steps from where it started
    assert [row.name for row in result.task_table.rows][-2:] == [
        "mixture, one expert a source",
        "mixture, trained jointly",
    ]
    answer = moesaic.generate(result.folder, "one two", fields={"target_lang": "di"}, max_new_tokens=4)
    assert answer.prompt == "translate to digits: one two" and answer.shares.keys() == {"digits", "letters"}


def test_what_is_read_and_what_is_written_can_have_pieces_of_their_own(recipe, tmp_path):
    folder = save_opus(tmp_path / "opus")
    result = run(recipe, f"model.name={folder}")
    data, expert = result.folder / "stages/data", result.folder / "stages/expert-letters/model"
    read, write = (SentencePieceProcessor(model_file=str(folder / f"{side}.spm")) for side in ("source", "target"))
    tokenizer, pairs = load_tokenizer(expert), TokenizedPairs.load(data / "letters.train.safetensors")
    lines = (data / "letters.train.jsonl").read_text().splitlines()
    for line, source, target in zip(lines, pairs.sources(), pairs.targets(), strict=True):
        pair = json.loads(line)
        pieces = [tokenizer.convert_ids_to_tokens(tokens.tolist()) for tokens in (source, target)]
        assert pieces[0] == [*read.encode(pair["source"], out_type=str), "</s>"]
        assert pieces[1] == [*write.encode(pair["references"][0], out_type=str), "</s>"]
    sources = [json.loads(line)["source"] for line in (data / "letters.test.jsonl").read_text().splitlines()]
    assert answers(result, "expert-letters", "letters") == written_by_transformers(expert, sources)
    answer = moesaic.generate(result.folder, "one two", fields={"target_lang": "le"}, max_new_tokens=4)
    assert answer.prompt == "translate to letters: one two"


def test_a_tokenizer_says_which_package_it_needs(tmp_path, monkeypatch):
    folder = save_opus(tmp_path / "opus")
    (folder / "target.spm").unlink()
    (folder / "source.spm").rename(folder / "spiece.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    message = (
        f"{folder}: its tokenizer cannot be read: spiece.model is a SentencePiece model. Install what reads it: "
        "pip install 'moesaic[sentencepiece]'."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        load_tokenizer(folder)


def test_each_language_that_a_prompt_names_has_a_router_of_its_own(recipe, tmp_path):
    tokenizer = train_pair_tokenizer(["translate to digits", "translate to letters", *TEXTS], 320)
    t5(len(tokenizer), tied=True).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    run(recipe, f"model.name={tmp_path / 'base'}", until="router")
    combiner = load_member(recipe.parent / "run/stages/router/model").network.combiner
    assert tokenizer.convert_ids_to_tokens(combiner.task_tokens) == ["Ġdigits", "Ġletters"]


@pytest.mark.parametrize("architecture", ["marian", "llama"])
def test_experts_can_be_adapters_that_share_the_checkpoint(recipe, tmp_path, architecture):
    folder = save(tmp_path / "base", architecture)
    settings = [
        "model.adapter={rank: 2, target_modules: [q_proj, v_proj]}",
        "decoding.num_beams=1",
        f"joint={json.dumps(STEPS)}",
    ]
    result = run(recipe, f"model.name={folder}", *settings)
    stage = result.folder / "stages/expert-digits/model"
    assert (stage / "adapter_model.safetensors").exists() and not (stage / "model.safetensors").exists()
    mixture = load_member(result.model).network
    digits, letters = mixture.members
    assert isinstance(digits, AdaptedLM) and digits.backbone is letters.backbone
    base = load_network(folder)
    for name, tensor in base.named_parameters():
        kept = dict(digits.backbone.named_parameters())
        assert torch.equal(tensor, kept.get(name, kept.get(re.sub(r"\.(weight|bias)$", r".base_layer.\1", name))))
    table = result.task_table
    expert, routed = table.row("expert digits"), table.row("mixture, one expert a source")
    assert routed.total_parameters < 2 * expert.total_parameters
    of_router = sum(parameter.numel() for parameter in mixture.combiner.parameters())
    assert routed.active_parameters == expert.total_parameters + of_router
    assert table.row("average of the experts").total_parameters < routed.total_parameters


def test_a_decoder_can_be_told_the_language_by_its_first_token(recipe, tmp_path):
    tokenizer = train_pair_tokenizer(TEXTS, 280, tags=["<digits>", "<letters>"])
    t5(len(tokenizer), tied=True).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = [f"model.name={tmp_path / 'base'}", "task.template='{source}'", "task.target_token=<{language}>"]
    settings += ["decoding.num_beams=1", "router.training={num_steps: 20, batch_size: 16, learning_rate: 0.1}"]
    result = run(recipe, *settings)
    assert result.task_table.router_accuracy == 1
    data = TokenizedPairs.load(result.folder / "stages/data/checkpoint-0/digits.test.safetensors")
    assert {tokenizer.decode(target[0]) for target in data.targets()} == {"<digits>"}
    lines = (result.folder / "stages/data/letters.test.jsonl").read_text().splitlines()
    sources = [json.loads(line)["source"] for line in lines]
    stage, first = result.folder / "stages/dense/model", tokenizer.convert_tokens_to_ids("<letters>")
    expected = written_by_transformers(stage, sources, num_beams=1, forced_bos_token_id=first)
    assert answers(result, "dense-same-total-pairs", "letters") == expected
    with pytest.raises(RecipeError, match=r"^model\.adapter: these experts meet at text, where adapters do not share"):
        run(recipe, *settings, "model.adapter={}", folder="other")
    message = (
        "Targets are to begin with the token '<di>', which the model's tokenizer has not. Change task.target_token or "
        "task.language_names as the model's card says."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        run(recipe, *settings, "task.language_names={}", folder="other", until="data")


def test_experts_of_different_tokenizers_meet_at_text(recipe, tmp_path):
    digits = save(tmp_path / "opus", "marian")
    letters = save(tmp_path / "flan", "t5", texts=["four three two one a b c d"])
    dense = save(tmp_path / "small", "llama")
    settings = [f"model={{type: checkpoint, name: {dense}, names: {{digits: {digits}, letters: {letters}}}}}"]
    settings += ["task.template='{source}'", "task.language_names={}", "experts.training.learning_rate=1e-9"]
    result = run(recipe, *settings, "router.training={num_steps: 20, batch_size: 16, learning_rate: 0.1}")
    table = result.task_table
    assert [row.name for row in table.rows] == [
        "expert digits",
        "expert letters",
        "own expert (domain known)",
        "dense, same total pairs",
        "mixture, one expert a source",
    ]
    assert table.router_accuracy == 1  # though a source alone does not say its language
    for name, folder in {"digits": digits, "letters": letters}.items():
        lines = (result.folder / f"stages/data/{name}.test.jsonl").read_text().splitlines()
        expected = written_by_transformers(folder, [json.loads(line)["source"] for line in lines])
        assert answers(result, "mixture-one-expert-a-source", name) == expected
    answer = moesaic.generate(result.folder, "one two", fields={"target_lang": "le"}, num_beams=2, max_new_tokens=8)
    assert answer.text in written_by_transformers(letters, ["one two"]) and answer.shares == {"digits": 0, "letters": 1}
    # Whatever the router thinks of a text, a model that writes another language is not asked.
    answerer = RoutedWritingAnswerer.load(result.model)
    assert answerer.languages == {"digits": ["di"], "letters": ["le"]}
    answerer.network.router.network.head[-1].bias.data = torch.tensor([1000.0, 0.0])
    for language, name in {"di": "digits", "le": "letters", "unknown": "digits"}.items():
        [answered] = answerer.answer([Pair("one two", (), details={"language": language})])
        assert answered.shares[name] == 1
    message = (
        "joint.num_steps: experts that start from these checkpoints meet at text, where nothing can be trained "
        "jointly: their tokenizers differ, or task.template has no {language}. Set it to 0, or give checkpoints that "
        "read the same tokens."
    )
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
        run(recipe, *settings, f"joint={json.dumps(STEPS)}", folder="other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["model.names.digits=here"],
            "model.name: this key is needed, since model.names has no checkpoint for letters.",
        ),
        (
            ["model.name=here", "model.names.digit=there"],
            "model.names: names digit, but the domains are digits, letters.",
        ),
        (
            ["model.name=here", "model.names.digits=there", "model.adapter={}"],
            "model.names: adapters share one backbone, model.name. Leave out model.names, or model.adapter.",
        ),
        (
            ["model.name=here", "model.adapter={}", "experts.training.num_steps=0"],
            "experts.training.num_steps: an adapter that is not trained changes nothing. Give steps, or leave "
            "model.adapter out.",
        ),
        (
            ["model.name=here", "experts.training.num_steps=0"],
            "experts.training.num_steps: without training, all experts are one and the same checkpoint. Give steps, or "
            "a checkpoint a domain in model.names.",
        ),
        (
            ["model.names={digits: a, letters: b}", "experts={training: {num_steps: 0}, num_members: 3}"],
            "experts.num_members: without training, 3 members of a domain are one and the same checkpoint. Set it to "
            "1, or give steps.",
        ),
        (
            ["model.name=here", "joint={num_steps: 3}"],
            "joint.learning_rate: this key is needed where models start from a checkpoint, since the default, 0.003, "
            "is for models from scratch. 5e-5 is a common beginning, and 2e-4 for adapters.",
        ),
        (
            ["model.name=here", "data.vocab_size=300"],
            "data.vocab_size: this says nothing to the models of this recipe, of the type 'checkpoint'. Leave it out.",
        ),
    ],
)
def test_what_a_recipe_says_of_checkpoints_must_fit_together(recipe, settings, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(f'toy.yaml, {message}')}$"):
        load_recipe(recipe, settings)


def bert(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)


def classifier(folder):
    save(folder, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))


def of_unknown_architecture(folder):
    save(folder, "llama")
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mystery"}))


def llama_without_tokenizer(folder):
    tiny_causal_lm().save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "settings", "problem"),
    [
        (lambda folder: None, [], "there is no such folder."),
        (
            bert,
            [],
            "this bert is no model that writes, so it cannot answer. Give a causal model, such as Llama, Qwen or "
            "GPT-2, or one with an encoder and a decoder, such as Marian, BART or T5.",
        ),
        (
            classifier,
            [],
            "this llama is no model that writes, so it cannot answer. Give a causal model, such as Llama, Qwen or "
            "GPT-2, or one with an encoder and a decoder, such as Marian, BART or T5.",
        ),
        (
            llama_without_tokenizer,
            [],
            "there is no tokenizer, so text cannot be read. Save one beside the model: "
            "tokenizer.save_pretrained(folder).",
        ),
        (
            lambda folder: save(folder, "llama"),
            ["data.max_source_tokens=60"],
            "llama reads 64 tokens, and data.max_source_tokens and data.max_target_tokens are 60 and 8 together. Lower "
            "them: of longer texts the beginning is read, and the run says how many were cut.",
        ),
        (
            lambda folder: save(folder, "llama"),
            ["model.adapter.target_modules=[query]"],
            "model.adapter: target_modules: LlamaForCausalLM has no linear layer called 'query'; there are q_proj, "
            "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. The embeddings and the output layer take no "
            "adapter.",
        ),
        (
            lambda folder: save(folder, "t5"),
            ["task={type: chat, prompt_field: source, response_field: target}"],
            "t5 has an encoder and a decoder, and a chat needs a causal model, which reads what was said as one text. "
            "Give one, such as Llama or Qwen3.",
        ),
        (
            lambda folder: save(folder, "gpt2"),
            ["model.adapter={}"],
            "model.adapter: target_modules: GPT2LMHeadModel has no linear layer that can have an adapter. Train it "
            "whole.",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_a_problem_before_any_work(recipe, tmp_path, make, settings, problem):
    folder = tmp_path / "given"
    make(folder)
    plan = moesaic.check(recipe, settings=[f"model.name={folder}", *settings])
    assert plan.problems == (f"model.name: {folder}: {problem}",)


def test_no_code_that_a_checkpoint_brings_is_run(recipe, tmp_path):
    folder = tmp_path / "given"
    of_unknown_architecture(folder)
    [problem] = moesaic.check(recipe, settings=[f"model.name={folder}"]).problems
    assert problem.startswith(f"model.name: {folder}: Transformers cannot tell what this is: ")
    end = "No code that a checkpoint brings is run. Give one of an architecture that Transformers has."
    assert "custom code" in problem and problem.endswith(end)
