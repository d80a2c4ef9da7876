"""Pages are read and run as docs/run.py says: files, languages, budgets, one namespace, failures."""

import subprocess
import sys

import pytest

from .pages import DOCS, load

runner = load("run")
FENCE = "`" * 3


def fence(language: str, code: str, comment: str = "") -> str:
    return f"{comment}\n{FENCE}{language}\n{code}\n{FENCE}\n"


def test_blocks_have_language_file_and_reason():
    page = "# A\n" + fence("sh", "ls") + fence("python", "x = 1", "<!-- file: a.py -->") + "text\n\n"
    page += fence("sh", "nvidia-smi", "<!-- not run: needs a GPU -->")
    found = runner.blocks(page)
    assert [(block.language, block.code, block.file, block.not_run) for block in found] == [
        ("sh", "ls\n", None, None),
        ("python", "x = 1\n", "a.py", None),
        ("sh", "nvidia-smi\n", None, "needs a GPU"),
    ]
    lines = page.splitlines()
    assert all(lines[block.line - 1].startswith(FENCE) for block in found)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (fence("", "ls"), "no language"),
        (fence("bash", "ls"), "a block of bash"),
        (fence("sh", "ls", "<!-- not run: it fails -->"), "not run for 'it fails'"),
    ],
)
def test_blocks_that_would_silently_not_run_are_refused(page, message):
    with pytest.raises(ValueError, match=message):
        runner.blocks(page)


@pytest.mark.parametrize(
    ("code", "short"),
    [
        ("rnas-zoo verify m --n 1000 --protocol standard", "rnas-zoo verify m --n 8 --protocol quick"),
        ("torchrun -m rnas_zoo verify m -n 4", "torchrun -m rnas_zoo verify --protocol quick m -n 4"),
        ("rnas-zoo train --fit \\\n  --time-budget 20m -o r", "rnas-zoo train  --steps 2 -o r"),
        (
            "torchrun -m rnas_zoo search --time-budget=9m",
            "torchrun -m rnas_zoo search --channels 2 --layers 4 --batch-size 8 --steps 2",
        ),
        ("rnas-zoo verify m --time-budget 9m", "rnas-zoo verify --protocol quick m --time-budget 3s"),
        ("rnas-zoo verify m --against-card", "rnas-zoo verify --protocol quick m --against-card --n 8"),
        ("rnas-zoo train --steps 200 --set total_steps=7", "rnas-zoo train --steps 2 --set total_steps=2"),
        ("rnas-zoo search --channels 4 --seeds 3", "rnas-zoo search --steps 2 --channels 4 --seeds 1"),
        ("rnas-zoo bench m --threads 2 --seconds 1", "rnas-zoo bench m --threads 1 --seconds 0.05"),
        (
            "rnas-zoo search --preset paper",
            "rnas-zoo search --steps 2 --channels 2 --layers 4 --batch-size 8 --preset paper",
        ),
        (
            "rnas-zoo train recipes/paper/arnas.toml -o r",
            "rnas-zoo train recipes/paper/arnas.toml --steps 2 --set batch_size=16 --set holdout=0.1 --channels 4 "
            "--layers 3 -o r",
        ),
        ("rnas-zoo verify --explain x", "rnas-zoo verify --explain x"),
        ("echo --nothing 5 -no 7", "echo --nothing 5 -no 7"),
    ],
)
def test_budgets_of_commands_are_cut_down(code, short):
    assert runner.quick(runner.Block("sh", code, 1)) == short


def test_budgets_of_python_are_cut_down():
    code = 'verify(m, protocol="standard", n=256, steps=90, total_steps=8, n_classes=10)'
    short = 'verify(m, protocol="quick", n=8, steps=2, total_steps=2, n_classes=10)'
    assert runner.quick(runner.Block("python", code, 1)) == short


def run(tmp_path, page: str, *options: str) -> subprocess.CompletedProcess:
    (tmp_path / "page.md").write_text(page)
    command = [sys.executable, str(DOCS / "run.py"), "page.md", "-C", "work", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


def test_a_page_runs_in_one_folder_and_one_namespace(tmp_path):
    page = fence("python", "VALUE = 3", "<!-- file: mine.py -->") + fence("python", "import mine\nx = mine.VALUE")
    page += fence("sh", "echo $((1 + 1)) > two.txt") + fence("text", "not run: rm two.txt")
    page += fence("sh", "exit 1", "<!-- not run: needs hours -->")
    page += fence("python", "print('sum', x + int(open('two.txt').read()))")
    done = run(tmp_path, page)
    assert done.returncode == 0, done.stderr
    assert "sum 5" in done.stdout
    assert (tmp_path / "work" / "recipes").is_dir()


@pytest.mark.parametrize("page", [fence("sh", "false\ntrue"), fence("sh", "false | cat"), fence("python", "1 / 0")])
def test_a_page_with_a_failing_block_fails(tmp_path, page):
    assert run(tmp_path, page).returncode == 1
