"""Requirements and installed packages: which is read from where, and when one fits the other."""

from __future__ import annotations

from importlib import metadata

import pytest

from rnas_zoo import resources
from rnas_zoo.doctor import Finding, packages
from rnas_zoo.doctor.checks import check_dependencies
from rnas_zoo.doctor.packages import required


@pytest.mark.parametrize(
    ("version", "bound", "fits"),
    [
        ("2.11", ">=2.11.0", True),
        ("2.9", ">=2.11", False),
        ("2.11.0a0+nv26.1", ">=2.11", True),
        ("3", "<3", False),
        ("2.99.1.post2", "<3", True),
        ("1.5", "<=1.5.0", True),
        ("1.5.1", "==1.5", False),
        ("1.5", "!=1.5", False),
        ("1.5", ">1.4.9", True),
        ("1.5", "~=1.4", None),
        ("1.5", "==1.*", None),
        ("unknown", ">=1", None),
    ],
)
def test_fits(version, bound, fits):
    assert packages.fits(version, bound) is fits


def test_requirement_texts():
    texts = [
        "Some_Thing[extra] >= 1.0 , < 2",
        "paren (>=1.0)",
        "bare",
        "odd~=1.0",
        "=nonsense",
        "pytest>=8; extra == 'test'",
        "onnxruntime>=1.22; not (sys_platform == 'linux')",
    ]
    installed = {"some-thing": "1.5", "paren": "1.0", "bare": "0", "odd": "1.0"}
    summary, *others = check_dependencies(texts, installed)
    assert summary == Finding("dependencies", "ok", "some-thing 1.5, paren 1.0, bare 0")
    assert [(finding.status, finding.detail) for finding in others] == [
        ("warning", "requirement not understood: odd~=1.0 (odd 1.0 is installed)"),
        ("warning", "requirement not understood: =nonsense"),
    ]


def test_requirements_come_from_the_metadata_without_a_checkout(monkeypatch, tmp_path):
    assert any(text.startswith("torch>=") for text in required())  # this checkout's pyproject.toml
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "rnas_zoo")
    monkeypatch.setattr(metadata, "requires", lambda name: [name])
    assert required() == ["rnas-zoo"]
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\ndependencies = ["x"]\n')
    assert required() == ["rnas-zoo"]
