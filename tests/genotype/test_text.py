"""The field's `Genotype(...)` text: read as data, never run, and refused without a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo import genotype, resources
from rnas_zoo.errors import GenotypeError, RnasZooError
from rnas_zoo.genotype.text import parse, parse_file

from ..strategies import cell_structures, reproducible

EDGES = "[('sep_conv_3x3', 1), ('skip_connect', 0), ('dil_conv_5x5', 2), ('none', 1)]"
PLAIN = f"Genotype(normal={EDGES}, normal_concat=[2, 3], reduce={EDGES}, reduce_concat=[2, 3])"
OTHER = PLAIN.replace("sep_conv_3x3", "max_pool_3x3")


def written(structure: dict, opened: str, closed: str) -> str:
    """The text of a structure, with lists written in the given brackets."""

    def sequence(items: list[str]) -> str:
        return opened + "".join(f"{item}, " for item in items) + closed

    fields = []
    for role, cell in structure["cells"].items():
        edges = sequence([sequence([repr(op), repr(source)]) for op, source in cell["edges"]])
        fields += [f"{role}={edges}", f"{role}_concat={sequence([repr(state) for state in cell['concat']])}"]
    return f"Genotype({', '.join(fields)})"


@reproducible(100)
@given(structure=cell_structures(), brackets=st.sampled_from(["[]", "()"]))
def test_text_of_either_kind_reads_to_its_structure(structure, brackets):
    found = parse(written(structure, *brackets), "mine")
    assert {"kind": found.kind, **found.structure.to_json()} == structure
    assert found.name == "mine"
    expected = genotype.from_json({"schema": 1, "name": "other", **structure})
    assert found.hash == expected.hash


@pytest.mark.parametrize("name", ["darts_v2", "arnas", "vuln_h"])
def test_published_genotypes_read_from_their_text(name):
    value = json.loads((resources.folder("genotypes") / f"{name}.json").read_text(encoding="utf-8"))
    text = written(value, "[", "]")
    assert parse(text).hash == genotype.named(name).hash


@pytest.mark.parametrize(
    ("concat", "expected"),
    [
        ("[2, 3, 4, 5]", [2, 3, 4, 5]),
        ("(2, 3, 4, 5)", [2, 3, 4, 5]),
        ("range(2, 6)", [2, 3, 4, 5]),
        ("list(range(2, 6))", [2, 3, 4, 5]),
        ("range(5, 1, -1)", [5, 4, 3, 2]),
        ("range(2, 6, 2)", [2, 4]),
        ("list((5, 2))", [5, 2]),
    ],
)
def test_concat_is_read_in_every_usual_form(concat, expected):
    edges = repr([("skip_connect", 0), ("skip_connect", 1)] * 4)
    found = parse(f"Genotype(normal={edges}, normal_concat={concat}, reduce={edges}, reduce_concat=[2])")
    assert found.structure["normal"].to_json()["concat"] == expected


@pytest.mark.parametrize(
    "concat",
    [
        "range(10**9)",
        "range(2, 100000)",
        "range(2, 4, 0)",
        "range(0, 0x" + "f" * 5000 + ")",
        "range()",
        "range(1, 2, 3, 4)",
        "range(2.0, 4)",
        "range(2, 4, True)",
        "range(stop=4)",
        "range(*[2, 4])",
        "list(range(10**9))",
        "list(range(2, 4), 1)",
        "list(*[[2, 3]])",
        "[range(2, 4)]",
        "[*range(2, 4)]",
        "[2] * 10**9",
        "'2' * 10**9",
        "[x for x in (2, 3)]",
        "(x for x in (2, 3))",
        "(lambda: [2])()",
        "f'{2}'",
        "genotypes.CONCAT",
        "CONCAT",
        "CONCAT[0]",
        "[2] if True else [3]",
        "(y := [2])",
        "2 + 3",
        "0x" + "f" * 5000,
        "[0x" + "f" * 5000 + "]",
        "...",
        "None",
        "{2, 3}",
        "{2: 3}",
        "{[]: 3}",
        "{(2, 3): 4}",
        "b'23'",
        "'23'",
        "[2j]",
        "[1e999]",
        "[True]",
    ],
    ids=lambda text: text[:30],
)
def test_other_expressions_are_refused_in_one_line(concat):
    text = f"Genotype(normal={EDGES}, normal_concat={concat}, reduce={EDGES}, reduce_concat=[2])"
    with pytest.raises(GenotypeError) as refused:
        parse(text)
    assert str(refused.value).startswith("genotype text: ")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


def test_huge_ranges_are_refused_without_memory():
    program = f"""
        import resource
        from rnas_zoo.genotype.text import parse
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
        for concat in ("range(10**9)", "range(1000000000)", "list(range(0, 999999999))", "range(-(10**15), 10**15)"):
            try:
                parse({PLAIN!r}.replace("[2, 3]", concat, 1))
            except ValueError as error:
                print(type(error).__name__)
    """
    if sys.platform != "linux":
        pytest.skip("waits for Linux: limits of the address space")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["GenotypeError"] * 4, done.stderr


@pytest.mark.parametrize(
    "evil",
    [
        "__import__('os').system('touch {trace}')",
        "open('{trace}', 'w')",
        "[open('{trace}', 'w') for _ in (1,)]",
        "(lambda: open('{trace}', 'w'))()",
        "f\"{{open('{trace}', 'w')}}\"",
        "[('none', open('{trace}', 'w')), ('none', 0)]",
        "list(open('{trace}', 'w'))",
        "range(open('{trace}', 'w'))",
        "().__class__.__base__.__subclasses__()",
    ],
)
@pytest.mark.parametrize("place", ["normal", "concat", "positional", "starred", "called", "decorated"])
def test_text_is_never_run(evil, place, tmp_path):
    trace = tmp_path / "trace"
    call = evil.format(trace=trace)
    text = {
        "normal": PLAIN.replace(EDGES, call, 1),
        "concat": PLAIN.replace("[2, 3]", call, 1),
        "positional": f"Genotype({call}, {PLAIN.removeprefix('Genotype(')}",
        "starred": f"Genotype(**{call}, {PLAIN.removeprefix('Genotype(')}",
        "called": f"{call}.Genotype({PLAIN.removeprefix('Genotype(')}",
        "decorated": f"@{call}\ndef Genotype(): pass",
    }[place]
    with pytest.raises(GenotypeError):
        parse(text)
    file = tmp_path / "genotypes.py"
    file.write_text(f"MINE = {text}" if place != "decorated" else text)
    with pytest.raises(GenotypeError):
        parse_file(file, "MINE")
    assert not trace.exists()


def test_a_file_around_a_genotype_is_never_run(tmp_path):
    trace = tmp_path / "trace"
    file = tmp_path / "genotypes.py"
    file.write_text(
        f"from collections import namedtuple\nimport nowhere_to_be_found\nopen({str(trace)!r}, 'w')\n"
        f"Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')\n"
        f"MINE = {PLAIN}\nraise SystemExit\n"
    )
    assert parse_file(file, "MINE").hash == parse(PLAIN).hash
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "exactly one"),
        ("   ", "exactly one"),
        (f"{PLAIN}\n{PLAIN}", "exactly one"),
        (f"MINE = {PLAIN}", "exactly one"),
        ("import os", "exactly one"),
        ("genotype", "expected Genotype"),
        ("3", "expected Genotype"),
        ("nas.Genotype(normal=[])", "expected Genotype"),
        ("Genotypes(normal=[])", "expected Genotype"),
        ("Genotype", "expected Genotype"),
        ("Genotype(", "not Python text"),
        ("Genotype(normal=[(])", "not Python text"),
        ("Genotype(\0)", "not Python text"),
        ("Genotype('\ud800')", "not Python text"),
        ("Genotype(" + "9" * 5000 + ")", "not Python text"),
        ("Genotype()", "fit no known form"),
        ("Genotype([], [2], [], [2])", "keyword"),
        (f"Genotype(**{{}}, {PLAIN[9:]}", "keyword"),
        (PLAIN.replace("normal_concat", "concat"), "fit no known form"),
        (PLAIN.replace("normal", "robust"), "fit no known form"),
        (PLAIN.replace("sep_conv_3x3", "sep_conv_7x7"), "unknown operation"),
        (PLAIN.replace("[2, 3]", "[2, 9]"), "concat"),
        (PLAIN.replace("('none', 1)", ""), "two edges per node"),
        (PLAIN.replace("('skip_connect', 0)", "('skip_connect', 2)"), "can only read"),
        (PLAIN.replace("('skip_connect', 0)", "('skip_connect',)"), "expected [operation, input]"),
    ],
)
def test_other_text_is_refused(text, problem):
    with pytest.raises(GenotypeError) as refused:
        parse(text)
    assert problem in str(refused.value)
    assert str(refused.value).startswith("genotype text: ")


@pytest.mark.parametrize("depth", [50, 150, 250, 900, 1000, 3000, 20_000])
@pytest.mark.parametrize(
    ("opened", "closed"),
    [("(", ")"), ("[", "]"), ("{", "}"), ("-", ""), ("not ", ""), ("list(", ")"), ("range(", ")"), ("1+", ""),
     ("a(", ")"), ("", ".a"), ("", "[0]"), ("lambda: ", ""), ("(2,", ")")],
)  # fmt: skip
def test_deep_nesting_is_refused_without_a_crash(opened, closed, depth):
    for core in ("2", "x"):
        text = PLAIN.replace("[2, 3]", opened * depth + core + closed * depth, 1)
        with pytest.raises(GenotypeError):
            parse(text)
        with pytest.raises(GenotypeError):
            parse(opened * depth + core + closed * depth)


# Files


def test_a_variable_of_a_file_is_read_by_its_name(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"FIRST = {PLAIN}\nSECOND = THIRD = {OTHER}\n")
    first, second, third = (parse_file(file, name) for name in ("FIRST", "SECOND", "THIRD"))
    assert (first.name, second.name) == ("FIRST", "SECOND")
    assert first.hash == parse(PLAIN).hash
    assert second.hash == third.hash == parse(OTHER).hash != first.hash
    assert genotype.resolve(f"{file}:SECOND") == second


def test_alias_chains_lead_to_the_genotype(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"DARTS_V2 = {PLAIN}\nDARTS = DARTS_V2\nBEST = DARTS\nDEFAULT = BEST\n")
    assert parse_file(file, "DEFAULT").hash == parse(PLAIN).hash
    assert parse_file(file, "DEFAULT").name == "DEFAULT"


def test_the_last_assignment_wins(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"MINE = {PLAIN}\nMINE = 3\nMINE = {OTHER}\n")
    assert parse_file(file, "MINE").hash == parse(OTHER).hash


def test_an_alias_keeps_the_meaning_of_its_line(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"A = {PLAIN}\nB = A\nA = {OTHER}\n")
    assert parse_file(file, "B").hash == parse(PLAIN).hash
    assert parse_file(file, "A").hash == parse(OTHER).hash


@pytest.mark.parametrize("text", ["A = A\n", "A = B\nB = A\n", "A = B\nB = C\nC = A\n", f"A = B\nB = {PLAIN}\n"])
def test_aliases_that_lead_nowhere_are_refused(text, tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(text)
    with pytest.raises(GenotypeError, match="expected Genotype") as refused:
        parse_file(file, "A")
    assert str(refused.value).startswith(f"{file}:A: ")


def test_a_syntax_error_is_refused_with_the_path(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"MINE = {PLAIN}\nthis is no python\n")
    with pytest.raises(GenotypeError, match="not Python text") as refused:
        parse_file(file, "MINE")
    assert str(refused.value).startswith(f"{file}: ")


def test_unknown_variables_suggest_near_ones(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"RNAS_H = {PLAIN}\nRNAS_L = {PLAIN}\ndef DARTS(): pass\n")
    with pytest.raises(GenotypeError, match=r"no genotype named 'RNAS_X'. Did you mean RNAS_\w, RNAS_\w\?"):
        parse_file(file, "RNAS_X")
    with pytest.raises(GenotypeError, match="no genotype named 'DARTS'"):
        parse_file(file, "DARTS")


def test_assignments_inside_functions_and_classes_do_not_count(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"def f():\n    MINE = {PLAIN}\nclass C:\n    MINE = {PLAIN}\n")
    with pytest.raises(GenotypeError, match="no genotype named"):
        parse_file(file, "MINE")


def test_invalid_genotypes_in_files_are_refused_with_path_and_variable(tmp_path):
    file = tmp_path / "genotypes.py"
    file.write_text(f"MINE = {PLAIN.replace('sep_conv_3x3', 'sep_conv_7x7')}\n")
    with pytest.raises(GenotypeError) as refused:
        parse_file(file, "MINE")
    assert str(refused.value).startswith(f"{file}:MINE: cells.normal.edges[0]: unknown operation")


def test_files_that_cannot_be_read_are_refused_with_their_path(tmp_path):
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"# caf\xe9\nMINE = 1\n")
    for path in (latin, tmp_path, tmp_path / "absent.py", tmp_path / "no\0name.py"):
        with pytest.raises(GenotypeError, match="cannot be read") as refused:
            parse_file(path, "MINE")
        assert str(refused.value).startswith(f"{path}: ")


# Any text at all

tokens = st.sampled_from(
    ["Genotype(", "normal", "normal_concat", "reduce", "reduce_concat", "accurate", "=", "[", "]", "(", ")", ",", " ",
     "'none'", "'skip_connect'", "0", "1", "2", "range(", "list(", "**", "*", "-", "lambda:", "f'", "'", ".", "\n", ":",
     "x", "for x in ", "{", "}", "0xffff", "\\", "\0", "é"]
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore:invalid escape:DeprecationWarning")
@reproducible(500)
@given(text=st.text(max_size=60) | st.lists(tokens, max_size=30).map("".join))
def test_any_text_is_read_or_refused(text):
    for form in (text, f"Genotype({text})", PLAIN.replace("[2, 3]", text, 1)):
        try:
            found = parse(form)
        except GenotypeError:
            continue
        assert genotype.from_json(found.to_json()) == found


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore:invalid escape:DeprecationWarning")
@reproducible(150)
@given(text=st.text(st.characters(exclude_characters="\r")) | st.lists(tokens, max_size=30).map("".join))
def test_any_file_is_read_or_refused(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("text") / "genotypes.py"
    file.write_text(f"A = {PLAIN}\n{text}\n", encoding="utf-8", errors="surrogatepass")
    for variable in ("A", "x", text):
        try:
            found = genotype.resolve(f"{file}:{variable}")
        except RnasZooError:
            continue
        assert found.structure.to_json()["cells"]
