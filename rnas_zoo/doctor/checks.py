"""What the facts of a machine mean: a check for each part of the environment, with the command that mends it."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping

from .. import resources
from .findings import Finding, Status
from .packages import RUNTIMES, fits, normal, runtime_wanted
from .trials import Done, json_lines, last_words

_PAIR_FIX = "pip install --force-reinstall torch torchvision  # both from the same index, both of the same build"
_TRIO_FIX = "pip install --upgrade torch torchvision timm"


def check_package() -> list[Finding]:
    """The version, and the data folders it finds."""
    import rnas_zoo

    detail, places = [f"version {getattr(rnas_zoo, '__version__', 'unknown')}"], {}
    for name, pattern in (("genotypes", "*.json"), ("recipes", "*.toml"), ("model_cards", "*/config.json")):
        places[name] = len(list(resources.folder(name).glob(pattern)))
        detail.append(f"{places[name]} {name} in {resources.folder(name)}" if places[name] else f"no {name}")
    fix = "" if places["genotypes"] else "pip install --force-reinstall --no-deps rnas-zoo"
    return [Finding("rnas-zoo", "warning" if fix else "ok", ", ".join(detail), fix)]


def check_python() -> list[Finding]:
    """The interpreter and its machine."""
    cpus = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    detail = f"{platform.python_version()} in {sys.prefix}; {platform.platform()}; {usable} of {cpus} CPUs"
    if fits(platform.python_version(), ">=3.11"):
        return [Finding("python", "ok", detail)]
    return [Finding("python", "problem", detail, "make a new environment with Python 3.11 or newer")]


def check_dependencies(requirements: Iterable[str], installed: Mapping[str, str]) -> list[Finding]:
    """One finding per dependency that is missing or out of range, one with the versions of all others."""
    good, findings = [], []
    for text in requirements:
        requirement, _, marker = text.partition(";")
        match = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^()]*)\)?\s*$", requirement)
        if match is None:
            findings.append(Finding("dependencies", "warning", f"requirement not understood: {text}"))
            continue
        name, bounds = normal(match[1]), match[2].replace(" ", "")
        if re.search(r"\bextra\s*==", marker) or (name in RUNTIMES and name != runtime_wanted()):
            continue
        names = [name, *(RUNTIMES if name in RUNTIMES else ())]
        found = next((candidate for candidate in names if candidate in installed), None)
        fix = _TRIO_FIX if name in ("torch", "torchvision", "timm") else f'pip install --upgrade "{name}{bounds}"'
        if found is None:
            findings.append(
                Finding("dependencies", "problem", f"{name} is not installed; {name}{bounds} is needed", fix)
            )
            continue
        met = [fits(installed[found], bound) for bound in bounds.split(",") if bound]
        if False in met:
            detail = f"{found} {installed[found]} is installed; {bounds} is needed"
            findings.append(Finding("dependencies", "problem", detail, fix))
        elif None in met:
            detail = f"requirement not understood: {text} ({found} {installed[found]} is installed)"
            findings.append(Finding("dependencies", "warning", detail))
        else:
            good.append(f"{found} {installed[found]}")
    return [Finding("dependencies", "ok", ", ".join(good)), *findings] if good else findings


def check_torch(done: Done) -> list[Finding]:
    """torch, and the devices it can use, from the end of the trial TORCH."""
    if done.returncode:
        return [Finding("torch", "problem", f"`import torch` fails: {last_words(done)}", _PAIR_FIX)]
    facts = json_lines(done)[-1]
    build = f"{facts['version']} (built {'for CUDA ' + facts['cuda'] if facts['cuda'] else 'without CUDA'})"
    findings = [Finding("torch", "ok", f"{build}, {facts['threads']} threads")]
    detail = f"CPU {facts['cpu']}, bf16 {'yes' if facts['cpu_bf16'] else 'no'}"
    for i, (name, memory, bf16) in reversed(list(enumerate(facts["gpus"]))):
        detail = f"cuda:{i} {name}, {memory / 2**30:.1f} GiB, bf16 {'yes' if bf16 else 'no'}; {detail}"
    if facts["gpus"] or not (facts["driver"] or facts["warnings"]):
        return [*findings, Finding("device", "ok", detail if facts["gpus"] else f"no CUDA device; {detail}")]
    cause = "; ".join(facts["warnings"]) or f"torch {build}"
    detail = f"an NVIDIA driver is there, but torch finds no CUDA device: {cause}; {detail}"
    fix = "update the NVIDIA driver, or take a torch for the CUDA version it has" if facts["cuda"] else _PAIR_FIX
    return [*findings, Finding("device", "warning", detail, fix)]


def check_torchvision(done: Done, installed: Mapping[str, str]) -> list[Finding]:
    """Whether torchvision is of torch's build, from the end of the trial TORCHVISION."""
    if not done.returncode:
        return [Finding("torchvision", "ok", f"{done.stdout.strip()}, imports beside torch")]
    mismatch = re.search(r"operator torchvision::\w+ does not exist|different CUDA major versions", done.stderr)
    if not mismatch:
        fix = _TRIO_FIX if "No module named 'torchvision'" in done.stderr else _PAIR_FIX
        return [Finding("torchvision", "problem", f"`import torchvision` fails: {last_words(done)}", fix)]
    torch, vision = (installed.get(name, "unknown") for name in ("torch", "torchvision"))
    detail = f"torch {torch} and torchvision {vision} are no matching pair ({mismatch[0]})"
    if torch.partition("+")[2] != vision.partition("+")[2]:
        detail += "; they are different builds: what follows the + must agree"
    return [Finding("torchvision", "problem", detail, _PAIR_FIX)]


def check_onnxruntime(done: Done, installed: Mapping[str, str], *, gpu: bool) -> list[Finding]:
    """onnxruntime and its providers, from the end of the trial ONNXRUNTIME; `gpu`: torch has found one."""
    present = [name for name in RUNTIMES if name in installed]
    clean = f"pip uninstall -y {' '.join(sorted({*present, *RUNTIMES[:2]}))} && pip install {runtime_wanted()}"
    findings = []
    if len(present) > 1:
        both = f"{' and '.join(present)} are both installed; they overwrite each other's files"
        findings.append(Finding("onnxruntime", "problem", both, clean))
    answers = json_lines(done)
    if not answers:
        fix = clean if present else f"pip install {runtime_wanted()}"
        return [*findings, Finding("onnxruntime", "problem", f"`import onnxruntime` fails: {last_words(done)}", fix)]
    module, *tried = answers
    if not module["version"]:
        empty = "the module is empty, as uninstalling one of two onnxruntime packages leaves it"
        return [*findings, Finding("onnxruntime", "problem", empty, clean)]
    if not findings:
        findings.append(Finding("onnxruntime", "ok", f"{module['version']}, from {' '.join(present) or 'no package'}"))

    usable = [answer["provider"] for answer in tried if answer["provider"] == answer["taken"]]
    reasons = {answer["provider"]: answer["reason"] for answer in tried if answer["provider"] not in usable}
    for name in module["listed"][len(tried) :]:
        reasons[name] = f"the trial ended early: {last_words(done)}"
    detail = f"usable: {', '.join(usable) or 'none'}"
    if reasons:
        detail += "; listed but not usable: " + ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
    if "CPUExecutionProvider" not in usable:
        fix = "pip install --upgrade onnx" if "No module named 'onnx'" in done.stderr else clean
        return [*findings, Finding("providers", "problem", detail, fix)]
    if gpu and "CUDAExecutionProvider" in reasons:
        fix = 'pip install "onnxruntime-gpu[cuda,cudnn]"  # the CUDA libraries, without which sessions run on the CPU'
        return [*findings, Finding("providers", "warning", detail, fix)]
    return [*findings, Finding("providers", "ok", detail)]


def check_hub(installed: Mapping[str, str], environ: Mapping[str, str]) -> list[Finding]:
    """huggingface_hub and the settings it reads, without their secrets."""
    detail = installed.get("huggingface-hub", "not installed")
    status: Status = "ok"
    fix = ""
    if endpoint := environ.get("HF_ENDPOINT"):
        shown = re.sub(r"^(\w+://)?.*@", r"\1***@", re.split(r"[?#]", endpoint)[0])  # a URL may carry credentials
        detail += f"; HF_ENDPOINT={shown}"
        if not re.match(r"https?://", endpoint):
            status, fix = "warning", "let HF_ENDPOINT begin with https:// or http://"
    if offline := environ.get("HF_HUB_OFFLINE"):
        effect = "no downloads" if offline.upper() in ("1", "ON", "YES", "TRUE") else "no effect"
        detail += f"; HF_HUB_OFFLINE={offline}: {effect}"
    if "huggingface-hub" not in installed:
        status, fix = "problem", "pip install huggingface-hub"
    return [Finding("huggingface_hub", status, detail, fix)]
