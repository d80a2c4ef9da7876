"""The interpreter that other tests start programs by does what Python does."""

import os
import signal
import subprocess
import sys
import time

import pytest

PRINT = (
    "import sys; print(sys.argv[1:], __name__); print(sys.stdin.read(), file=sys.stderr); sys.exit(int(sys.argv[1]))"
)


@pytest.mark.parametrize("kind", ["-c", "-m", "file"])
def test_arguments_streams_folder_and_exit_code_are_those_of_python(warm_python, tmp_path, kind):
    (tmp_path / "program.py").write_text(PRINT)
    program = {"-c": ["-c", PRINT], "-m": ["-m", "program"], "file": ["program.py"]}[kind]
    cold, warm = (
        subprocess.run([python, *program, "3", "a b"], cwd=tmp_path, input="said", capture_output=True, text=True)
        for python in (sys.executable, warm_python)
    )
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    assert warm.stdout == "['3', 'a b'] __main__\n"
    assert warm.returncode == 3


def test_an_exception_is_an_exit_code_of_one_and_a_traceback(warm_python):
    done = subprocess.run([warm_python, "-c", "1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_program_gets_the_environment_of_its_caller(warm_python):
    code = "import os; print(os.environ['MINE'], 'HOME' in os.environ)"
    environment = {"MINE": "42", "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "PATH": os.environ["PATH"]}
    done = subprocess.run([warm_python, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "42 False\n", done.stderr


@pytest.mark.parametrize(
    ("changes", "imported"),
    [({}, "True True"), ({"HF_HOME": "/nowhere"}, "True False"), ({"OMP_NUM_THREADS": "3"}, "False False")],
)
def test_what_imports_read_is_read_anew(warm_python, changes, imported):
    """A program finds imported what does not depend on the variables that differ, and the rest reads them."""
    code = (
        "import sys; print('torch' in sys.modules, 'timm' in sys.modules)\n"
        "import torch, huggingface_hub.constants as c; print(c.HF_HOME, torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    warm, cold = (
        subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True).stdout.splitlines()
        for python in (warm_python, sys.executable)
    )
    assert warm == [imported, cold[1]]


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_ends_with_its_caller(warm_python, tmp_path):
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with subprocess.Popen([warm_python, "-c", code]) as process:
        deadline = time.monotonic() + 30
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    program = int((tmp_path / "pid").read_text())
    while alive(program) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(program)
