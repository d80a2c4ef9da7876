"""Links lead somewhere, every page of the documentation is found from its index, every fence names its language."""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "index.md"
OTHERS = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "genotypes/README.md", "recipes/README.md", "export/README.md",
    "benchmarks/README.md", "rnas_zoo/verification/flags.md",
)  # fmt: skip
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in OTHERS if (ROOT / name).is_file())])

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="waits for a checkout: run the tests from a clone"
)


def named(page):
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def inline(page):
    return [child for token in tokens(page) for child in (token, *(token.children or ()))]


def anchor(heading):
    """GitHub's: lower case, without punctuation, a hyphen for each space."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(page):
    """Of the headings of a page; a repeated one is counted."""
    found, seen, parts = set(), {}, tokens(page)
    for opened, token in pairwise(parts):
        if opened.type == "heading_open":
            name = anchor("".join(each.content for each in token.children if each.type in ("text", "code_inline")))
            count = seen[name] = seen.get(name, -1) + 1
            found.add(f"{name}-{count}" if count else name)
    html = "\n".join(each.content for each in inline(page) if each.type.startswith("html_"))
    return found | set(re.findall(r'<a [^>]*(?:id|name)="([^"]+)"', html))


@cache
def links(page):
    """Relative targets of the links and pictures of a page, as (file or folder, anchor)."""
    targets = [
        each.attrGet("href") or each.attrGet("src") for each in inline(page) if each.type in ("link_open", "image")
    ]
    html = "\n".join(each.content for each in inline(page) if each.type.startswith("html_"))
    targets += re.findall(r'(?:href|src)="([^"]+)"', html)
    found = []
    for target in targets:
        if not re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            path, _, part = unquote(target).partition("#")
            found.append(((page.parent / path).resolve() if path else page, part))
    return found


def problems(page, root):
    """Links of a page that lead nowhere, in words."""
    found = []
    for target, part in links(page):
        if not target.exists() or not target.is_relative_to(root):
            found.append(f"{page.name}: no {target}")
        elif part and not (target.suffix == ".md" and part in anchors(target)):
            found.append(f"{page.name}: {target.name} has no heading #{part}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    assert problems(page, ROOT) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_fences_name_their_language(page):
    bare = [token.map[0] + 1 for token in tokens(page) if token.type == "fence" and not token.info.strip()]
    assert bare == [], f"{named(page)}: fences without a language at these lines"


def test_every_page_is_found_from_the_index():
    assert INDEX.is_file(), "docs/index.md is missing"
    reached, left = {INDEX}, [INDEX]
    while left:
        new = {target for target, _ in links(left.pop()) if target.suffix == ".md" and target in PAGES} - reached
        reached |= new
        left += new
    assert [named(page) for page in PAGES if page.is_relative_to(INDEX.parent) and page not in reached] == []


def test_anchors_are_those_that_github_gives():
    assert anchor("What robustness costs: cifar10") == "what-robustness-costs-cifar10"
    assert anchor("L∞ 8/255 — `--eps`, a_b (c)") == "l-8255----eps-a_b-c"
    assert anchor("rnas_zoo.attacks.APGD") == "rnas_zooattacksapgd"


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    other, page = tmp_path / "other.md", tmp_path / "page.md"
    other.write_text('# One `code`\n\n## Twice\n\n## Twice\n\n<a id="own"></a>\n')
    good = "[a](other.md) [b](other.md#one-code) [c](other.md#twice-1) [d](other.md#own) [e](#here) [f](https://x.y/#z)"
    page.write_text(
        f"# Here\n\n{good}\n\n| a |\n| --- |\n| [x](none.md) [y](other.md#twice-2) |\n\n`[z](code.md)` ![](n.png)\n"
    )
    assert problems(page, tmp_path) == [
        f"page.md: no {tmp_path / 'none.md'}",
        "page.md: other.md has no heading #twice-2",
        f"page.md: no {tmp_path / 'n.png'}",
    ]
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "out.md").write_text("[up](../other.md)\n")
    assert len(problems(inside / "out.md", inside)) == 1
