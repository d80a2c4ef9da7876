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
    assert [block.only_cut_down for block in found] == [None, None, None]
    lines = page.splitlines()
    assert all(lines[block.line - 1].startswith(FENCE) for block in found)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (fence("", "ls"), "no language"),
        (fence("bash", "ls"), "a block of bash"),
        (fence("sh", "ls", "<!-- not run: it fails -->"), "not run for 'it fails'"),
        (fence("sh", "ls", "<!-- only cut down: it fails -->"), "only cut down for 'it fails'"),
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
        ("rnas-zoo train --fit \\\n  --time-budget 20m -o r", "rnas-zoo train --batch-size 8  --steps 2 -o r"),
        (
            "torchrun -m rnas_zoo search --time-budget=9m",
            "torchrun -m rnas_zoo search --batch-size 8 --channels 2 --layers 4 --stem cifar_stride2 --steps 2",
        ),
        ("rnas-zoo verify m --time-budget 9m", "rnas-zoo verify --protocol quick m --time-budget 3s"),
        ("rnas-zoo verify m --against-card", "rnas-zoo verify --protocol quick m --against-card --n 8"),
        (
            "rnas-zoo train --batch-size 64 --steps 200 --set total_steps=7",
            "rnas-zoo train --batch-size 8 --steps 2 --set total_steps=2",
        ),
        (
            "rnas-zoo search --method a,b --channels 3 --stem cifar --batch-size 4 --seeds 3",
            "rnas-zoo search --steps 2 --proxy-steps 2 --method a,b --channels 3 --stem cifar_stride2 --batch-size 4 "
            "--seeds 1",
        ),
        ("rnas-zoo bench m --threads 2 --seconds 1", "rnas-zoo bench m --threads 1 --seconds 0.05"),
        (
            "rnas-zoo search --preset paper",
            "rnas-zoo search --steps 2 --batch-size 8 --channels 2 --layers 4 --stem cifar_stride2 --preset paper",
        ),
        (
            "rnas-zoo train recipes/paper/arnas.toml -o r",
            "rnas-zoo train recipes/paper/arnas.toml --steps 2 --set batch_size=8 --set holdout=0.1 --channels 4 "
            "--layers 3 -o r",
        ),
        (
            "rnas-zoo search --channels 16 --layers 8 --stem cifar_stride2 --batch-size 64 --max-params 700k --steps 9",
            "rnas-zoo search --channels 4 --layers 4 --stem cifar_stride2 --batch-size 8 --max-params 30k --steps 2",
        ),
        ("rnas-zoo list --max-params 200k", "rnas-zoo list --max-params 200k"),
        ("rnas-zoo package r -o m", "rnas-zoo package --n 8 r -o m"),
        (
            "python benchmarks/methods.py --passes 4M --target-macs 60M --proxy-passes 4M --proxy-batch-size 256 "
            "--genotypes 'a,b,c,d' --seeds a=3,b=2",
            "python benchmarks/methods.py --passes 32 --target-macs 1M --proxy-passes 32 --proxy-batch-size 8 "
            "--genotypes 'a,d' --seeds 1",
        ),
        (
            "python benchmarks/training.py --batch 512 --epochs 8",
            "python benchmarks/training.py --batch 4 --repeats 1 --batch 8 --epochs 1",
        ),
        (
            "python benchmarks/search.py --device cuda",
            "python benchmarks/search.py --batch 4 --repeats 1 --channels 4 --layers 4 --steps clean "
            "--networks rnas_zoo --device cpu",
        ),
        ("rnas-zoo list --device cuda", "rnas-zoo list --device cpu"),
        (
            "torchrun --nproc-per-node 4 -m x; torchrun --standalone --nproc-per-node 2 -m x",
            "torchrun --standalone --nproc-per-node 2 -m x; torchrun --standalone --nproc-per-node 2 -m x",
        ),
        (
            "rnas-zoo verify --protocol fast model_cards/a_b.c_cifar10_d --data cifar10",
            "rnas-zoo verify --protocol quick model_cards/rnas_wrn10_1.pgd_digits_linf16 --data digits",
        ),
        ("x --arch rnas_wrn34_10 --data FOLDER -o FOLDER", "x --arch rnas_wrn10_1 --data cifar10 -o FOLDER"),
        ("x --to OWNER; x hf-hub:OWNER/NAME@v1", "x --to me; x hf-hub:me/a_model@v1"),
        ("rnas-zoo verify --explain x", "rnas-zoo verify --explain x"),
        ("echo --nothing 5 -no 7", "echo --nothing 5 -no 7"),
    ],
)
def test_budgets_of_commands_are_cut_down(code, short):
    assert runner.quick(runner.Block("sh", code, 1)) == short


def test_budgets_of_python_are_cut_down():
    code = 'verify("hf-hub:OWNER/NAME", protocol="standard", n=256, steps=90, total_steps=8, n_classes=10)'
    short = 'verify("hf-hub:me/a_model", protocol="quick", n=8, steps=2, total_steps=2, n_classes=10)'
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


def test_a_block_can_be_run_cut_down_only(tmp_path):
    page = fence("sh", "echo --steps 90 > steps.txt", "<!-- only cut down: needs hours -->")
    page += fence("python", "x = 3", "<!-- only cut down: needs minutes -->")
    page += fence("python", "print('x' in dir(), __import__('os').path.exists('steps.txt'))")
    whole, cut_down = run(tmp_path, page), run(tmp_path, page, "--quick")
    assert (whole.returncode, cut_down.returncode) == (0, 0), whole.stderr + cut_down.stderr
    assert "False False" in whole.stdout
    assert "True True" in cut_down.stdout
    assert (tmp_path / "work" / "steps.txt").read_text() == "--steps 2\n"


def test_blocks_that_need_the_hub_find_a_stand_in_and_no_others_do(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    ask = "import os, urllib.request as u; print(u.urlopen(os.environ['HF_ENDPOINT'] + '/api/models').read())"
    needs = "<!-- only cut down: needs the real Hub -->"
    page = fence("python", "import os; print('before', os.environ.get('HF_ENDPOINT'))")
    page += fence("sh", f'python -c "{ask}"', needs) + fence("python", ask, needs)
    page += fence("sh", "echo after ${HF_ENDPOINT:-None}")
    done = run(tmp_path, page, "--quick")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("b'[]'") == 2
    assert "before None" in done.stdout
    assert "after None" in done.stdout


@pytest.mark.parametrize("page", [fence("sh", "false\ntrue"), fence("sh", "false | cat"), fence("python", "1 / 0")])
def test_a_page_with_a_failing_block_fails(tmp_path, page):
    assert run(tmp_path, page).returncode == 1
