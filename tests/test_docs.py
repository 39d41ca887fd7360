"""What the documentation says is what the code does: pages are up to date, and everything that can be run is run."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from docs.generate import PAGES, table_picture
from moesaic.cli import main
from moesaic.testing import save_tiny_checkpoint, tiny_tokenizer
from moesaic.testing.tiny import SENTENCES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language, about="news"):
    """The README's code in a language that shows it being used."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if about in text)


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page):
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES[page](), "run make docs"


def test_the_picture_fetches_nothing(finished):
    picture = table_picture(finished[1].table)
    assert "url(http" not in picture and "@import" not in picture
    assert "mixture" in picture


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """What the README's reader has: two checkpoints and their text."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    for seed, name in enumerate(("news", "law")):
        folder = save_tiny_checkpoint(tmp_path / f"my-{name}-model", seed=seed, max_position_embeddings=256)
        tokenizer.save_pretrained(folder)
        lines = (json.dumps({"text": f"{SENTENCES[seed]}, number {number} of {name}. " * 6}) for number in range(80))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_recipe_and_the_commands_run(workplace, monkeypatch, capsys):
    recipe = block("yaml")
    assert len([line for line in recipe.splitlines() if not line.startswith("#")]) == 5
    # The reader's recipe word for word, and fewer steps.
    quick = {stage: {"num_steps": 2, "batch_size": 4} for stage in ("router", "joint")}
    (workplace / "news.yaml").write_text(recipe + yaml.safe_dump(quick))
    printed = {}
    for line in block("bash").splitlines():
        command = shlex.split(line, comments=True)
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, line
        printed[command[1]] = capsys.readouterr().out
    assert "nothing stands in the way" in printed["check"]
    assert "Lowest loss: " in printed["run"] and "Lowest loss: " in printed["evaluate"]
    assert printed["generate"].startswith("The court")
    assert (workplace / "my-mixture" / "config.json").exists()


def test_the_recipe_of_a_task_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("en-de", "en-fr"):
        rows = ({"source": f"a dog runs {number} times", "target": f"{name} {number}"} for number in range(60))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {
        "model": {"hidden_size": 32, "intermediate_size": 64, "num_encoder_layers": 1, "num_decoder_layers": 1},
        "experts": {"training": {"num_steps": 2, "batch_size": 4}},
        "router": {"training": {"num_steps": 2, "batch_size": 4}},
        "decoding": {"num_beams": 1},
        "arena": {"num_resamples": 20},
    }
    (tmp_path / "pairs.yaml").write_text(block("yaml", "pairs") + yaml.safe_dump(quick))
    for line in block("bash", "pairs").splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, line
    assert capsys.readouterr().out.splitlines()[-1].startswith("written by en-")


def test_the_page_of_mixtures_runs(capsys):
    page = (ROOT / "docs" / "mixtures.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    jointly, *_, by_em = [line for line in capsys.readouterr().out.splitlines() if line.endswith("%")]
    assert int(jointly.rstrip("%")) > 90 and int(by_em.rstrip("%")) > 90


def test_the_python_example_runs(workplace, capsys):
    code = block("python")
    assert len(code.strip().splitlines()) - 2 <= 5
    exec(code, {})
    assert "| my-news-model |" in capsys.readouterr().out
    assert json.loads((workplace / "sparse-model" / "config.json").read_text())["model_type"] == "mixtral"


def test_every_link_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "EXPERIMENTS.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
