import json
import subprocess
import sys

import pytest

from moesaic.cli import main


def call(monkeypatch, capsys, *arguments):
    """Exit status, output and errors of a command."""
    monkeypatch.setattr(sys, "argv", ["moesaic", *map(str, arguments)])
    status = 0
    try:
        main()
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def command(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


def test_a_finished_run_says_so_and_shows_the_table(command, finished):
    path, run = finished
    status, out, err = command("run", path, "--folder", run.folder)
    assert status == 0 and not err
    assert "mixture, trained jointly" in out and "Lowest loss: " in out
    assert "All stages were done already; nothing was done again." in out


def test_evaluate_sorts_the_table(command, finished):
    path, run = finished
    _, out, _ = command("evaluate", path, "--folder", run.folder, "--by", "active_parameters")
    rows = [line.strip().split("  ")[0] for line in out.splitlines()]
    assert rows.index("seed") < rows.index("mixture, trained jointly") < rows.index("posterior")


def test_assemble_prints_the_sparse_checkpoints_folder(command, finished):
    path, run = finished
    status, out, _ = command("assemble", path, "--folder", run.folder)
    assert status == 0
    assert out.split()[-1] == str(run.folder / "stages" / "assemble" / "model")


def test_generate_says_who_wrote(command, finished):
    status, out, _ = command("generate", finished[1].folder, "the cat", "--max-new-tokens", 5)
    assert status == 0
    assert out.startswith("the cat") and "\nwritten by " in out and "letters" in out


def test_export_copies_the_model(command, finished, tmp_path):
    status, out, _ = command("export", finished[1].folder, tmp_path / "out")
    assert status == 0 and out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def test_check_says_what_is_needed(command, finished):
    status, out, _ = command("check", finished[0])
    assert status == 0
    assert "nothing stands in the way" in out and "expert-digits" in out


def test_check_names_every_problem_and_fails(command, finished):
    path = finished[0]
    status, out, _ = command("check", path, "--set", "data.domains.0.source.path=gone.jsonl")
    assert status == 1
    assert f"  problem: data.domains, letters: {path.parent / 'gone.jsonl'}: there is no such file.\n" in out


def test_our_errors_are_one_message(command, finished):
    status, out, err = command("run", finished[0], "--set", "joint.num_step=3")
    assert (status, out) == (1, "")
    assert err == "RecipeError: tiny.yaml, joint: unknown key 'num_step'. Did you mean 'num_steps'?\n"


def test_a_wrong_argument_is_one_message(command, finished):
    status, _, err = command("generate", finished[1].folder, "")
    assert status == 2
    assert err.endswith("Error: Invalid value: The prompt is empty; give at least one character.\n")


def test_help_is_printed_without_pytorch():
    code = """
import sys
import moesaic.cli
sys.argv = ["moesaic", "--help"]
try:
    moesaic.cli.main()
finally:
    assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "AssertionError" not in result.stderr
    assert "Make one model out of several" in result.stdout


def test_bias_shows_experts_and_the_model_made_of_them(command, finished, tmp_path):
    pairs = [
        {"sent_more": "the cat sat", "sent_less": "the mat sat", "bias_type": kind} for kind in ("age", "religion")
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    status, out, _ = command("bias", finished[1].folder, "--crows-pairs", path, "--by-category")
    assert status == 0
    names = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [name for name in names if name in ("letters", "digits", "mixture")] == ["letters", "digits", "mixture"]
    assert "age" in out and "religion" in out


def test_bias_without_a_file_says_what_to_give(command, finished):
    status, _, err = command("bias", finished[1].folder)
    assert status == 2
    assert "There is nothing to measure" in err
