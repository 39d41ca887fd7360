import errno
import fcntl
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import moesaic
from moesaic.arena import DENSE, ORACLE
from moesaic.errors import RecipeError, RunError, TrainingError
from moesaic.members import load_adapter_members, load_network
from moesaic.recipe import folder as run_folder
from moesaic.recipe.folder import RunFolder, Stage
from moesaic.recipe.load import load_recipe

ROWS = {
    "seed",
    "expert letters",
    "expert digits",
    ORACLE,
    "parameter average",
    "probability average",
    "logit average",
    "posterior",
    "mixture, random router",
    "mixture, prototypes router",
    "mixture, ridge router",
    "mixture, router trained",
    "mixture, trained jointly",
    DENSE,
}


def weights(folder):
    """All tensors that stages of a run wrote."""
    files = sorted([*folder.glob("stages/*/model/*.safetensors"), *folder.glob("model/*.safetensors")])
    return {f"{file.relative_to(folder)}:{name}": value for file in files for name, value in load_file(file).items()}


def assert_same_bits(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def changed_stages(path, run, *settings):
    """Names of the stages that a changed recipe does again."""
    folders = {folder.name: folder for folder in (run / "stages").iterdir()}
    folders |= {place: run / place for place in ("model", "report")}
    before = {stage: folder.stat().st_ino for stage, folder in folders.items()}
    moesaic.run(path, folder=run, settings=settings, quiet=True)
    return {stage for stage, folder in folders.items() if folder.stat().st_ino != before[stage]}


def test_the_arena_has_every_row(finished):
    _, run = finished
    assert {row.name for row in run.table.rows} == ROWS


def test_the_dense_model_reads_as_much_as_the_whole_mixture_road(finished):
    table = finished[1].table
    # Steps of 8 x 16 tokens: seed 12, two experts of 6, router 2, joint 6.
    assert table.row("mixture, trained jointly").training_tokens == (12 + 2 * 6 + 2 + 6) * 128
    assert table.row(DENSE).training_tokens == (12 + 2 * 6 + 2 + 6) * 128
    assert table.row("expert digits").training_tokens == (12 + 6) * 128


def test_training_lowers_the_loss_of_each_expert_on_its_domain(finished):
    table = finished[1].table
    for domain in ("letters", "digits"):
        expert, seed = table.row(f"expert {domain}"), table.row("seed")
        assert expert.scores[domain].nats_per_token < seed.scores[domain].nats_per_token


def test_a_run_keeps_its_recipe_its_versions_and_its_events(finished):
    path, run = finished
    assert (run.folder / "recipe.yaml").read_text() == path.read_text()
    assert json.loads((run.folder / "lock.json").read_text())["versions"]["torch"] == torch.__version__
    assert list((run.folder / "tensorboard" / "joint").glob("events.*"))
    assert not list(run.folder.rglob(".partial-*"))


def test_plain_transformers_loads_the_model_and_generates(finished):
    run = finished[1]
    code = f"""
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(run.model)!r})
tokenizer = AutoTokenizer.from_pretrained({str(run.model)!r})
inputs = tokenizer("the cat sat", return_tensors="pt")
assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]
torch.set_printoptions(precision=9)
print(model(**inputs).logits.flatten().tolist())
assert "moesaic" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    member = moesaic.load_member(run.folder, name="ours")
    ours = member.network(**member.tokenizer("the cat sat", return_tensors="pt")).logits.flatten()
    theirs = torch.tensor(json.loads(result.stdout.splitlines()[-1]))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_models_card_says_how_it_was_made(finished):
    card = (finished[1].model / "README.md").read_text()
    assert finished[0].read_text() in card
    assert finished[1].table.verdict() in card
    assert "2 experts (letters, digits)" in card


def test_the_model_writes_its_experts_names_and_both_counts(finished):
    config = json.loads((finished[1].model / "config.json").read_text())
    assert config["expert_names"] == ["letters", "digits"]
    assert config["num_experts"] == config["num_local_experts"] == 2


def test_a_finished_run_is_not_done_again(finished, capsys):
    path, run = finished
    assert changed_stages(path, run.folder) == set()
    moesaic.run(path, folder=run.folder)
    assert "All stages were done already; nothing was done again." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        (["arena.max_tokens=512"], {"arena", "model", "report"}),
        (["joint.learning_rate=1e-3"], {"joint", "arena", "model", "report"}),
        (["assemble.router=random"], {"assemble", "router", "joint", "arena", "model", "report"}),
        # The dense model reads as many tokens as the mixture's road.
        (["router.num_steps=10"], {"router", "joint", "dense", "arena", "model", "report"}),
    ],
)
def test_a_changed_recipe_does_again_what_depends_on_the_change(finished, tmp_path, settings, again):
    path, run = finished
    copied = shutil.copytree(run.folder, tmp_path / "run")
    assert changed_stages(path, copied, *settings) == again


# Each kills the process without warning at a moment that hurts.
MOMENTS = {
    "in the middle of training": "from moesaic.training import loop as module; name = 'save_checkpoint'; nth = 2",
    "while the sparse checkpoint is written": "from moesaic.moe import assemble as f; import sys; "
    "module = sys.modules['moesaic.moe.assemble']; name = 'write_safetensors'; nth = 2",
    "between finishing a stage and renaming it": "from moesaic.recipe.folder import RunFolder as module; "
    "name = '_publish'; nth = 4",
    "in the middle of joint training": "from moesaic.training import loop as module; name = 'save_checkpoint'; nth = 4",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_continues_to_the_same_bits(finished, tmp_path, moment):
    path, run = finished
    killed = tmp_path / "run"
    code = f"""
import os, signal
import moesaic
moesaic.run
{MOMENTS[moment]}
original, calls = getattr(module, name), []
def deadly(*arguments):
    calls.append(name)
    if name == "save_checkpoint":
        original(*arguments)
    if len(calls) == nth:
        os.kill(os.getpid(), signal.SIGKILL)
    if name != "save_checkpoint":
        original(*arguments)
setattr(module, name, deadly)
moesaic.run({str(path)!r}, folder={str(killed)!r}, quiet=True)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (killed / "model").exists()
    moesaic.run(path, folder=killed, quiet=True)
    assert_same_bits(killed, run.folder)


# "auto" would round to bfloat16 where the processor multiplies it, and then the sums of two processes differ visibly.
IN_FLOAT32 = [f"{section}.precision=float32" for section in ("seed.training", "experts.training", "router", "joint")]


def test_torchrun_shares_the_work_and_gives_the_same_losses(recipe, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    moesaic.run(recipe, folder=alone, settings=IN_FLOAT32, quiet=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "moesaic", "run"]
    settings = [part for setting in IN_FLOAT32 for part in ("--set", setting)]
    result = subprocess.run(
        [*command, recipe, "--folder", together, *settings], check=True, capture_output=True, text=True
    )
    assert result.stdout.count("Lowest loss: ") == 1
    for stage in ("seed", "expert-digits", "router", "joint", "dense"):
        ours, theirs = (
            [record["loss"] for record in json.loads((folder / "stages" / stage / "history.json").read_text())]
            for folder in (together, alone)
        )
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_a_folder_that_holds_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(RunError) as error:
        moesaic.run(recipe, folder=tmp_path / "thesis", quiet=True)
    assert str(error.value) == (
        f"{tmp_path / 'thesis'}: this folder holds something else, and nothing in it was touched. "
        "Give an empty folder, or one that does not exist yet."
    )
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_file_in_place_of_the_folder_is_left_alone(recipe, tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(RunError) as error:
        moesaic.run(recipe, folder=tmp_path / "run", quiet=True)
    assert str(error.value) == (
        f"{tmp_path / 'run'}: this is a file. Give the folder of a run, or one that does not exist yet."
    )
    assert (tmp_path / "run").read_text() == "precious"


def test_one_command_works_in_a_run_at_a_time(finished):
    path, run = finished
    with (run.folder / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError) as error:
            moesaic.run(path, folder=run.folder, quiet=True)
    assert str(error.value) == f"{run.folder}: another command is at work in this run. Wait for it, or stop it."


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_and_finished_stages_are_kept(tmp_path, monkeypatch, failure):
    def fill(output):
        raise failure

    folder = RunFolder(tmp_path / "run")
    done, full = (
        Stage("data", lambda output: (output / "tokens").write_text("1"), {}),
        Stage("seed", fill, {}, ("data",)),
    )
    with folder.claim():
        for stage in folder.plan([done]):
            folder.execute(stage)
        folder.plan([done, full])
        monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 2_000_000))
        with pytest.raises(RunError) as error:
            folder.execute(full)
    assert str(error.value) == (
        f"{tmp_path / 'run'}, stage seed: the disk is full (2 MB left). Finished stages are kept; make room "
        "and give the same command again."
    )
    assert (folder.stage_folder("data") / "tokens").read_text() == "1"


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_is_done(recipe, tmp_path):
    with pytest.raises(
        TrainingError, match=r"^Step \d of 6: the loss is (nan|inf) at learning rate 1e\+30\. Lower learning_rate"
    ):
        moesaic.run(recipe, folder=tmp_path / "run", settings=["joint.learning_rate=1e30"], quiet=True)
    assert (tmp_path / "run" / "stages" / "router" / "model").exists()
    assert not (tmp_path / "run" / "stages" / "joint").exists()


def test_an_unknown_stage_is_refused(finished):
    path, run = finished
    with pytest.raises(ValueError, match=r"^until must be one of data, seed, expert-letters, .*, got 'experts'\.$"):
        moesaic.run(path, folder=run.folder, until="experts")


def test_until_stops_early(recipe, tmp_path):
    run = moesaic.run(recipe, folder=tmp_path / "run", until="assemble", quiet=True)
    assert run.model == tmp_path / "run" / "stages" / "assemble" / "model"
    assert not (tmp_path / "run" / "stages" / "router").exists()
    assert AutoModelForCausalLM.from_pretrained(run.model).config.model_type == "mixtral"
    assert AutoTokenizer.from_pretrained(run.model).eos_token == "<eos>"


def test_qwen3_seeds_become_a_qwen3_mixture(recipe, tmp_path):
    run = moesaic.run(recipe, folder=tmp_path / "run", settings=["seed.family=qwen3"], quiet=True)
    config = json.loads((run.model / "config.json").read_text())
    assert (config["model_type"], config["num_experts"], config["norm_topk_prob"]) == ("qwen3_moe", 2, True)


def test_feed_forward_experts_share_all_else(recipe, tmp_path):
    folder = tmp_path / "run"
    moesaic.run(recipe, folder=folder, settings=["experts.train=feed_forward"], until="assemble", quiet=True)
    seed = load_file(folder / "stages" / "seed" / "model" / "model.safetensors")
    sparse = load_file(folder / "stages" / "assemble" / "model" / "model-00001-of-00001.safetensors")
    shared = [name for name in seed if ".mlp." not in name]
    assert shared and all(torch.equal(seed[name], sparse[name]) for name in shared)
    expert = load_file(folder / "stages" / "expert-digits" / "model" / "model.safetensors")
    assert any(not torch.equal(seed[name], expert[name]) for name in seed if ".mlp." in name)


def test_adapters_are_merged_into_experts_that_are_assembled(recipe, tmp_path):
    folder = tmp_path / "run"
    settings = ["experts.train=lora", "experts.adapter.rank=2", "experts.adapter.target_modules=[up_proj, down_proj]"]
    result = moesaic.run(recipe, folder=folder, settings=settings, quiet=True)
    assert {row.name for row in result.table.rows} == ROWS
    seed = load_file(folder / "stages" / "seed" / "model" / "model.safetensors")
    stage = folder / "stages" / "expert-digits"
    expert = load_file(stage / "model" / "model.safetensors")
    changed = {name for name in seed if not torch.equal(seed[name], expert[name])}
    assert changed == {name for name in seed if "up_proj" in name or "down_proj" in name}
    # B A of rank 2 is all that was added.
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank(expert[name] - seed[name], rtol=1e-3) == 2
    backbone = moesaic.load_member(folder / "stages" / "seed" / "model")
    (adapted,) = load_adapter_members(backbone, {"digits": stage / "adapter"})
    tokens = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        expected = load_network(stage / "model")(tokens).logits
        torch.testing.assert_close(adapted.network(tokens).logits, expected, rtol=1e-3, atol=1e-3)


def test_embeddings_that_are_trained_beside_an_adapter_are_part_of_the_expert(recipe, tmp_path):
    folder = tmp_path / "run"
    settings = ["experts.train=lora", "experts.adapter.rank=2", "experts.adapter.train_embeddings=true"]
    moesaic.run(recipe, folder=folder, settings=settings, until="expert-digits", quiet=True)
    seed = load_file(folder / "stages" / "seed" / "model" / "model.safetensors")
    stage = folder / "stages" / "expert-digits"
    expert = load_file(stage / "model" / "model.safetensors")
    changed = {name for name in seed if not torch.equal(seed[name], expert[name])}
    assert changed == {name for name in seed if "embed_tokens" in name or "_proj" in name}
    # By itself the adapter would not be for the seed.
    assert not (stage / "adapter").exists()


def test_an_adapter_without_embeddings_says_nothing_of_them(recipe):
    adapter = load_recipe(recipe, ["experts.train=lora"]).recipe.experts.adapter.model_dump()
    assert "train_embeddings" not in adapter  # or finished stages would be done again


def test_adapters_that_learned_nothing_make_the_same_checkpoint_as_experts_that_did_not(recipe, tmp_path):
    untrained = ["experts.training.num_steps=0"]
    moesaic.run(
        recipe, folder=tmp_path / "lora", settings=["experts.train=lora", *untrained], until="assemble", quiet=True
    )
    moesaic.run(recipe, folder=tmp_path / "full", settings=untrained, until="assemble", quiet=True)
    ours, theirs = weights(tmp_path / "lora"), weights(tmp_path / "full")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_checks_name_an_adapter_that_has_nowhere_to_go(recipe):
    plan = moesaic.check(recipe, settings=["experts.train=lora", "experts.adapter.target_modules=[query]"])
    assert plan.problems == (
        "experts.adapter.target_modules: LlamaForCausalLM has no linear layer called 'query'; there are q_proj, "
        "k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. The embeddings and the output layer take no adapter.",
    )


def test_an_adapter_of_rank_0_is_refused(recipe):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, ["experts.train=lora", "experts.adapter.rank=0"])
    assert str(error.value) == (
        "tiny.yaml, experts.adapter.rank: 0 (a number) does not fit: input should be greater than 0."
    )


def test_the_users_own_checkpoints_are_experts(finished, tmp_path):
    path, run = finished
    stages = run.folder / "stages"
    own = "\n".join(
        line
        for line in path.read_text().splitlines()
        if not line.startswith(("seed:", "  {hidden", "   training", "experts:", "  training"))
    )
    own += (
        f"\nexperts:\n  checkpoints: {{letters: {stages}/expert-letters/model, digits: {stages}/expert-digits/model}}\n"
    )
    (path.parent / "own.yaml").write_text(own)
    result = moesaic.run(path.parent / "own.yaml", folder=tmp_path / "run", quiet=True)
    names = {row.name for row in result.table.rows}
    assert names == ROWS - {"seed", DENSE}
    theirs, ours = run.table.row("expert digits"), result.table.row("expert digits")
    assert ours.scores["digits"].nats_per_token == pytest.approx(theirs.scores["digits"].nats_per_token, rel=1e-6)


def test_a_checkpoint_can_be_the_seed(finished, tmp_path):
    path, run = finished
    seed = run.folder / "stages" / "seed" / "model"
    text = (
        path.read_text().split("seed:")[0]
        + f"seed: {{checkpoint: {seed}}}\nexperts:"
        + path.read_text().split("experts:")[1]
    )
    (path.parent / "seeded.yaml").write_text(text)
    result = moesaic.run(path.parent / "seeded.yaml", folder=tmp_path / "run", quiet=True)
    assert result.table.row("seed").training_tokens == 0
    ours = load_file(tmp_path / "run" / "stages" / "expert-digits" / "model" / "model.safetensors")
    theirs = load_file(run.folder / "stages" / "expert-digits" / "model" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_domains_are_found_where_they_have_no_names(recipe, tmp_path, capsys):
    text = recipe.read_text().replace("    - {name: digits, source: {type: folder, path: digits}}\n", "")
    (recipe.parent / "one.yaml").write_text(text.replace("path: letters.jsonl", "path: all.jsonl"))
    words, numbers = recipe.parent / "letters.jsonl", sorted((recipe.parent / "digits").iterdir())
    lines = [json.dumps({"text": path.read_text()}) for path in numbers]
    (recipe.parent / "all.jsonl").write_text(words.read_text() + "\n".join(lines))
    settings = ["data.num_clusters=2", "arena.combinations=[experts, average]"]
    made = moesaic.run(recipe.parent / "one.yaml", folder=tmp_path / "run", settings=settings, until="arena")
    # Letters and digits are told apart: each expert is much better on the cluster that it was trained on.
    assert made.table.domains == ("cluster-1", "cluster-2")
    for number, name in enumerate(made.table.domains, start=1):
        losses = {row.name: row.scores[name].nats_per_token for row in made.table.rows if row.kind == "expert"}
        assert min(losses, key=losses.get) == f"expert cluster-{number}"
    assert "cluster-1 holds 100% letters; typical:" in capsys.readouterr().out
