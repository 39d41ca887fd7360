import json
import sys
from importlib import import_module

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from moesaic import Mixture
from moesaic.arena.harness import HarnessModel
from moesaic.cli import main
from moesaic.combiners import Average, Posterior
from moesaic.members import CausalLM
from moesaic.testing import save_tiny_checkpoint, tiny_causal_lm, tiny_tokenizer

# The harness's own: data sets are opened and not closed, and old names of other libraries are used.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SENTENCES = ["the cat sat on the mat", "die Katze", "def cat(mat): return mat", "le chat dort et la cat sat" * 9]

TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "words": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "answers": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["t", "\\n"], max_gen_toks: 7}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with three local tasks, one for each kind of request."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"question": sentence, "choices": [" cat", " mat on the cat", "t"], "label": number % 3}
        for number, sentence in enumerate(SENTENCES)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        (folder / f"{name}.yaml").write_text(f"task: tiny_{name}\n{data}test_split: test\n{text}")
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """What datasets prepares goes away with the test."""
    import datasets.config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def single():
    """A member, and a mixture that holds nothing else."""
    member = CausalLM("only", tiny_causal_lm(seed=3), tiny_tokenizer())
    return member, Mixture([member], Average("logit"))


def requests(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number, metadata=("tiny", number, 1))
        for number, each in enumerate(arguments)
    ]


def reference(member, batch_size=3):
    return HFLM(pretrained=member.network, tokenizer=member.tokenizer, batch_size=batch_size, device="cpu")


def measure(model, tasks, **options):
    return lm_eval.simple_evaluate(
        model,
        tasks=[f"tiny_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )


def test_one_member_mixture_has_the_figures_of_the_harnesss_own_class(single, tasks):
    member, mixture = single
    ours = measure(HarnessModel(mixture, batch_size=3), tasks)
    theirs = measure(reference(member), tasks)
    assert ours["results"] == theirs["results"]
    for name in (f"tiny_{name}" for name in TASKS):
        answers = [[sample["resps"] for sample in result["samples"][name]] for result in (ours, theirs)]
        assert answers[0] == answers[1]
        assert len(answers[0]) == len(SENTENCES)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_kind_of_request_is_answered_to_the_last_digit_alike(single, batch_size):
    member, mixture = single
    ours, theirs = HarnessModel(mixture, batch_size=batch_size), reference(member, batch_size)
    contexts = ("", "the cat ", *SENTENCES, "cat " * 90)
    pairs = [(context, continuation) for context in contexts for continuation in (" mat", " on", "s that sat", "t")]
    for kind, arguments in {
        "loglikelihood": pairs,
        "loglikelihood_rolling": [(text,) for text in contexts[1:]],
        "generate_until": [(text, {"until": ["at"], "max_gen_toks": 9}) for text in contexts[1:]]
        + [(text, {"max_new_tokens": 5, "do_sample": False}) for text in contexts[1:]],
    }.items():
        given = requests(kind, *arguments)
        assert getattr(ours, kind)(given) == getattr(theirs, kind)(given), kind


def test_batches_change_nothing_for_a_mixture_that_remembers(members):
    mixture = Mixture(members, Posterior())
    pairs = requests("loglikelihood", *((sentence, " on the mat") for sentence in SENTENCES))
    alone = HarnessModel(mixture, batch_size=1).loglikelihood(pairs)
    together = HarnessModel(mixture, batch_size=4).loglikelihood(pairs)
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone], rel=1e-5)


def test_a_length_may_be_given(single):
    model = HarnessModel(single[1], max_length=20)
    assert HarnessModel(single[1]).max_length == 64
    # What does not fit is cut from the left, so that what is cut makes no difference.
    [long, short] = model.loglikelihood(
        requests("loglikelihood", ("le chat " + "cat " * 60, "mat"), ("cat " * 60, "mat"))
    )
    assert long == short


def test_sampling_needs_a_temperature(single):
    given = requests("generate_until", ("the cat", {"temperature": 2.0, "max_gen_toks": 6}))
    model = HarnessModel(single[1])
    torch.manual_seed(1)
    sampled = {model.generate_until(given)[0] for _ in range(4)}
    assert len(sampled) > 1


def test_the_name_and_a_path_are_enough(tmp_path, tasks):
    save_tiny_checkpoint(tmp_path / "model", seed=5)
    results = measure("moesaic", tasks, model_args=f"path={tmp_path / 'model'}", batch_size=2)["results"]
    assert set(results) == {"tiny_choices", "tiny_words", "tiny_answers"}


def test_the_command_is_the_harnesss_own(tmp_path, tasks, monkeypatch, capsys):
    save_tiny_checkpoint(tmp_path / "model", seed=5)
    command = ["moesaic", "harness", "--", "--model", "moesaic", "--tasks", "tiny_choices", "--device", "cpu"]
    command += ["--model_args", f"path={tmp_path / 'model'}", "--include_path", str(tasks)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "|tiny_choices|" in capsys.readouterr().out
    assert sys.argv == command


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Give the harness a model or a path, for instance --model_args path=runs/news."),
        ({"model": CausalLM("bare", tiny_causal_lm())}, "bare has no tokenizer, so it cannot read text. "),
        (
            {"model": CausalLM("numbers", torch.nn.Linear(1, 1), tiny_tokenizer())},
            "numbers (Linear) is no causal language model. The harness takes those, and mixtures of them that meet at ",
        ),
        ({"batch_size": "auto"}, "batch_size must be a whole number above 0, got 'auto'."),
        ({"max_length": 0}, "max_length must be a whole number above 0, got 0."),
    ],
)
def test_wrong_arguments_are_named(single, options, sentence):
    given = options if "model" in options or not options else {"model": single[0], **options}
    with pytest.raises(ValueError) as raised:
        HarnessModel(**given)
    assert str(raised.value).startswith(sentence)


def test_room_for_a_prompt_is_needed(single):
    given = requests("generate_until", ("the cat", {"until": ["."]}))
    with pytest.raises(ValueError) as raised:
        HarnessModel(single[1]).generate_until(given)
    assert str(raised.value) == (
        "The task asks for 256 new tokens, and mixture reads 64 tokens, so no prompt fits. Ask for fewer with "
        "--gen_kwargs max_gen_toks=N."
    )


def test_a_missing_harness_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "moesaic.arena.harness")
    with pytest.raises(ModuleNotFoundError, match=r"Install it: pip install 'moesaic\[lm-eval\]'\.$"):
        import_module("moesaic.arena.harness")
