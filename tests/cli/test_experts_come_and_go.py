import json
import sys

import pytest

from moesaic.cli import main
from moesaic.moe import assemble
from moesaic.testing import save_tiny_checkpoint


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A mixture of two experts, a third one, and text of each domain."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("news", "law", "code")):
        save_tiny_checkpoint(tmp_path / name, seed=seed)
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"the {name} sat on the mat " * 20}))
    assemble(["news", "law"], "mixture")
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys, workplace):
    def call(line):
        """Exit status, output and errors of a command."""
        monkeypatch.setattr(sys, "argv", ["moesaic", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


def names(folder):
    return json.loads((folder / "config.json").read_text())["expert_names"]


def test_experts_come_and_go(command, workplace):
    texts = "--text news=news.jsonl --text law=law.jsonl --text code=code.jsonl"
    assert command(f"add mixture code --output larger {texts}") == (0, "larger\n", "")
    assert names(workplace / "larger") == ["news", "law", "code"]
    assert command("replace larger law code")[:2] == (0, "larger\n")
    assert command("remove larger news --text law=law.jsonl --text code=code.jsonl --router refit")[:2] == (
        0,
        "larger\n",
    )
    assert names(workplace / "larger") == ["law", "code"]
    assert names(workplace / "mixture") == ["news", "law"]


def test_what_is_wrong_is_one_message(command):
    status, _, err = command("remove mixture sports")
    assert status == 2 and "mixture: no expert is called 'sports'; there are news, law." in err
    status, _, err = command("add mixture code --text code.jsonl")
    assert status == 2 and "--text code.jsonl: write NAME=PATH, for instance news=news.jsonl." in err
    status, _, err = command("add mixture code")
    assert status == 2 and "Missing option '--text'." in err
    status, _, err = command("add mixture code --text code=code.jsonl")
    assert status == 1 and err == (
        "DataError: Routers are fitted on text of every expert's domain: news, law, code; there is text for code. Give "
        "one text for each expert, by its name.\n"
    )
