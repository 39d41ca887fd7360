import pytest

from moesaic.errors import RecipeError
from moesaic.recipe import load_recipe

RECIPE = """\
data:
  domains:
    - {name: news, source: {type: jsonl, path: news.jsonl}}
    - {name: law, source: {type: folder, path: law}}
joint: {num_steps: 10, learning_rate: 1e-3}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "news.yaml"
    file.write_text(RECIPE)
    return file


def fails(path, *settings, text=None):
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path, settings)
    return str(error.value)


def test_a_recipe_is_read_with_its_defaults(path):
    loaded = load_recipe(path)
    assert loaded.name == "news"
    assert loaded.recipe.domain_names == ("news", "law")
    assert loaded.recipe.joint.learning_rate == 0.001  # YAML 1.1 would read 1e-3 as text
    assert loaded.recipe.assemble.num_experts_per_tok == 2
    assert loaded.text == RECIPE


def test_a_setting_changes_one_value_and_is_noted(path):
    loaded = load_recipe(path, ["joint.num_steps=3", "data.domains.1.name=laws", "seed.family=qwen3"])
    assert loaded.recipe.joint.num_steps == 3
    assert loaded.recipe.domain_names == ("news", "laws")
    assert loaded.text.endswith(
        "# --set joint.num_steps=3\n# --set data.domains.1.name=laws\n# --set seed.family=qwen3\n"
    )


def test_a_seed_checkpoint_is_taken_as_it_is_unless_training_is_asked_for(path):
    assert load_recipe(path, ["seed.checkpoint=my/model"]).recipe.seed.training.num_steps == 0
    both = load_recipe(path, ["seed.checkpoint=my/model", "seed.training.num_steps=5"])
    assert both.recipe.seed.training.num_steps == 5


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("joint.num_step=3", "news.yaml, joint: unknown key 'num_step'. Did you mean 'num_steps'?"),
        ("jiont.num_steps=3", "news.yaml: unknown key 'jiont'. Did you mean 'joint'?"),
        (
            "data.domains.0.source.pth=x",
            "news.yaml, data.domains.0.source: unknown key 'pth'. Did you mean 'path'?",
        ),
        (
            "arena.zzz=1",
            "news.yaml, arena: unknown key 'zzz'. There are combinations, num_seeds, budget, max_tokens, "
            "batch_size, num_resamples.",
        ),
        (
            "joint.num_steps=ten",
            "news.yaml, joint.num_steps: 'ten' (text) does not fit: input should be a valid integer.",
        ),
        (
            "joint.num_steps=-1",
            "news.yaml, joint.num_steps: -1 (a number) does not fit: input should be greater than or equal to 0.",
        ),
        (
            "data.domains=[{name: news, source: {type: jsonl, path: news.jsonl}}]",
            "news.yaml, data.domains: there is only 'news', and one expert is no mixture. Give two or more, or set "
            "data.num_clusters to have domains found in this one.",
        ),
        ("data.domains.1.name=news", "news.yaml, data.domains: two domains are called 'news'. Give each its own name."),
        (
            "assemble.num_experts_per_tok=4",
            "news.yaml, assemble.num_experts_per_tok: 4 is more than the 2 experts (news, law). Use 2 to 2, or add "
            "domains.",
        ),
        (
            "assemble.num_experts_per_tok=1",
            "news.yaml, assemble.num_experts_per_tok: with 1, a mixture that rescales its weights to sum to 1 gives "
            "every chosen expert the weight 1, so its router cannot learn from the language-model loss. Use 2 or "
            "more.",
        ),
        ("assemble.shared=nws", "news.yaml, assemble.shared: 'nws' is none of average, seed, news, law."),
        (
            "experts.checkpoints={news: a, sport: b}",
            "news.yaml, experts.checkpoints: names news, sport, but the domains are news, law. Give one checkpoint a "
            "domain, or none.",
        ),
        (
            "data.domains.0.source.type=csv",
            "news.yaml, data.domains.0.source: {'type': 'csv', 'path': 'news.jsonl'} (a mapping) does not fit: input "
            "tag 'csv' found using 'type' does not match any of the expected tags: 'jsonl', 'parquet', 'folder', "
            "'hub', 'machine'.",
        ),
        ("joint", "--set joint: write dotted.key=value, for instance joint.num_steps=10."),
        ("data.domains.7.name=x", "--set data.domains.7.name=x: news.yaml has no data.domains.7."),
    ],
)
def test_what_does_not_fit_is_named(path, setting, sentence):
    assert fails(path, setting) == sentence


def test_everything_that_does_not_fit_is_named_at_once(path):
    assert fails(path, "joint.num_steps=ten", "arena.size=3").count("\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "data: [",
            "news.yaml, line 1, column 8: expected the node content, but found '<stream end>'. A recipe is a YAML "
            "file.",
        ),
        (
            "joint: {}\njoint: {}\n",
            "news.yaml, line 2, column 1: the key 'joint' stands twice. A recipe is a YAML file.",
        ),
        ("- data\n", "news.yaml: a recipe is a mapping of sections such as data and experts, got ['data'] (a list)."),
        ("{}\n", "news.yaml, data: this key is needed, and missing."),
    ],
)
def test_text_that_is_no_recipe_is_named(path, text, sentence):
    assert fails(path, text=text) == sentence.replace(
        "news.yaml", str(path) if "YAML" in sentence or "mapping" in sentence else "news.yaml", 1
    )


def test_a_missing_recipe_is_named(tmp_path):
    path = tmp_path / "no.yaml"
    assert fails(path) == f"{path}: there is no such file. Give the path of a recipe."


def test_a_recipe_that_is_no_text_is_named(path):
    path.write_bytes(b"\xff\xfe")
    assert fails(path).startswith(f"{path}: cannot be read as UTF-8 text (")
