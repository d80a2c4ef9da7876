"""The zoo page in a real browser, opened from the disk: sorting, filters, links, phones, and nothing complained of."""

import json
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from rnas_zoo import resources
from rnas_zoo.hub import site

from ..export.browser import COLOURS, Browser, find
from .made_up import write_release

REAL = "rnas_cl_s3.nfgsm_cifar10_linf8"
EVIL = "<img src=x onerror=hacked=1><script>hacked=1</script>"
ROWS = "[...document.querySelectorAll('#zoo tbody tr')].filter((row) => row.checkVisibility())"
NAMES = f"{ROWS}.map((row) => row.querySelector('a').textContent)"
CONTRAST = (
    f"(() => {{{COLOURS}"
    + """
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const nodes = new Set();
  while (walker.nextNode()) if (walker.currentNode.textContent.trim()) nodes.add(walker.currentNode.parentElement);
  return [...nodes].filter((node) => !node.closest("script, title, option, .unseen") && node.checkVisibility())
    .map((node) => {
      const style = getComputedStyle(node), colour = node.ownerSVGElement ? style.fill : style.color;
      const [a, b] = [luminance(colour), luminance(ground(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent.trim().slice(0, 40)];
    });
})()"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site of one bundled release and four made-up ones, one of them hostile."""
    if find() is None:
        pytest.skip("waits for Chromium: `apt-get install chromium`, or any Chrome on the PATH")
    root = tmp_path_factory.mktemp("zoo")
    cards = root / "cards"
    shutil.copytree(resources.folder("model_cards") / REAL, cards / REAL)
    for name, architecture, runs, changes in (
        ("small.quick", "rnas_resnet20_s3", [("quick", "8/255", 40, 30, 20)], {}),
        ("small.tie", "rnas_resnet20_s3", [("standard", "8/255", 40, 28, 20), ("fast", "2/255", 40, 28, 25)], {}),
        (
            "digits.one",
            "rnas_resnet20_s3",
            [("standard", "16/255", 40, 39, 30)],
            {"dataset": "digits", "eps": "16/255"},
        ),
        (f"{EVIL}.x", "rnas_cl_s3", [("fast", "8/255", 40, 30, 4)], {"card": f"# T\n\n{EVIL}\n"}),
    ):
        write_release(cards / f"release {len(list(cards.iterdir()))}", architecture, runs, name=name, **changes)
    site.build(root / "site", cards=cards)
    return root / "site"


@pytest.fixture(scope="module")
def browser(folder, tmp_path_factory):
    browser = Browser(find(), tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def visit(folder, browser):
    """Opens the index, with a hash, and waits until its script has run."""

    def go(state="", **options):
        browser.open(f"{(folder / 'index.html').as_uri()}{state}", **options)
        browser.wait("document.documentElement.dataset.state === 'ready'")
        return browser

    return go


@pytest.fixture(scope="module")
def values(folder):
    """The data of the page, read without a browser."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def state(browser):
    return {key: value for key, (value,) in parse_qs(urlsplit(browser.run("location.href")).fragment).items()}


def press(browser, key, code):
    text = "\r" if key == "Enter" else " "
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


def test_every_column_sorts_both_ways_by_click(visit, values):
    page = visit()
    labels = page.run("[...document.querySelectorAll('#zoo thead th')].map((head) => head.dataset.key)")
    assert {"name", "robust", "clean", "parameters", "macs", "status"} < set(labels)
    for key in labels:
        head = f"document.querySelector('#zoo thead th[data-key=\"{key}\"]')"
        found = {}
        for _ in range(2):
            page.run(f"{head}.querySelector('button').click()")
            found[page.run(f"{head}.ariaSort")] = page.run(NAMES)
            assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
        for direction, names in found.items():
            own = {each["name"]: each[key] for each in values}
            present = [own[name] for name in names if own[name] is not None]
            if key in ("threat", "name"):  # text with numbers in it: by their values
                continue
            assert present == sorted(present, reverse=direction == "descending")
            assert [own[name] for name in names[len(present) :]] == [None] * (len(names) - len(present))
        assert set(found) == {"ascending", "descending"}
        if key == "threat":
            assert found["ascending"][-1] == "digits.one"
    assert page.errors == []


def test_at_equal_values_the_stronger_protocol_comes_first_and_the_weaker_is_marked(visit):
    for direction in ("robust", "-robust"):
        page = visit(f"#sort={direction}")
        names = page.run(NAMES)
        assert names.index("small.quick") == names.index("small.tie") + 1
    cells = dict(page.run(f"{ROWS}.map((row) => [row.querySelector('a').textContent, row.cells[3].innerText])"))
    assert cells["small.quick"].split()[0] == "quick"
    assert cells["small.tie"].split()[0] == "50.0"


def test_the_keyboard_sorts(visit):
    page = visit()
    page.run("document.querySelector('#zoo thead th[data-key=parameters] button').focus()")
    press(page, "Enter", 13)
    assert state(page) == {"sort": "parameters"}
    up = page.run(NAMES)
    press(page, " ", 32)
    assert state(page) == {"sort": "-parameters"}
    assert up[0].startswith(("small", "digits"))
    assert not page.run(NAMES)[0].startswith(("small", "digits"))
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def choose(page, name, value, event):
    page.run(f"""(() => {{ const field = document.getElementById({name!r}); field.value = {value!r};
      field.dispatchEvent(new Event({event!r}, {{ bubbles: true }})); }})()""")


def test_filters_combine_and_can_be_shared_by_address(visit, values):
    page = visit()
    everything = page.run(NAMES)
    assert len(everything) == len(values) == 5
    choose(page, "q", "TIE small", "input")
    assert page.run(NAMES) == ["small.tie"]
    choose(page, "q", "", "input")
    choose(page, "dataset", "cifar10", "change")
    choose(page, "protocol", "standard", "change")
    assert set(page.run(NAMES)) == {REAL, "small.tie"}
    choose(page, "max", "100k", "input")
    assert page.run(NAMES) == ["small.tie"]
    assert page.run("document.getElementById('count').innerText") == "1 of 5 models"
    shared = page.run("location.hash")
    assert visit(shared).run(NAMES) == ["small.tie"]
    assert page.run("document.getElementById('max').value") == "100k"
    choose(page, "q", "nothing like it", "input")
    assert page.run("document.getElementById('empty').checkVisibility()")
    choose(page, "max", "many", "input")
    assert page.run("document.getElementById('max-problem').checkVisibility()")
    page.run("document.getElementById('clear').click()")
    assert page.run(NAMES) == everything
    assert state(page) == {}
    assert visit("#sort=nonsense&dataset=gone&max=1e5").run(NAMES) == [
        name for name in everything if name.startswith(("small", "digits"))
    ]
    assert page.errors == []


def test_what_is_filtered_out_fades_in_the_plot_and_plots_can_be_chosen(visit):
    page = visit("#q=tie")
    dots = "[...document.querySelectorAll('.view:not([hidden]) .dot')]"
    faded = page.run(f"{dots}.map((dot) => [dot.ariaLabel.includes('small.tie'), dot.classList.contains('away')])")
    assert len(faded) == 4
    assert all(mine != away for mine, away in faded)
    views = page.run("[...document.querySelectorAll('#views button')].map((button) => button.innerText)")
    assert views == ["cifar10, L∞ 8/255", "cifar10, L∞ 2/255"]
    page.run("document.querySelectorAll('#views button')[1].click()")
    assert state(page)["plot"] == views[1]
    assert page.run(f"{dots}.length") == 2
    assert page.run("[...document.querySelectorAll('#views button')].map((b) => b.ariaPressed)") == ["false", "true"]


def test_a_model_is_opened_from_the_table_and_back(visit, browser):
    page = visit()
    page.run(f"[...document.querySelectorAll('#zoo a')].find((link) => link.textContent === '{REAL}').click()")
    page.wait(f"document.querySelector('h1').textContent === '{REAL}' && document.readyState === 'complete'")
    page.run("[...document.images].forEach((image) => { image.loading = 'eager' })")
    page.wait("[...document.images].every((image) => image.complete)")
    assert page.run("[...document.images].map((image) => image.naturalWidth > 0)").count(True) >= 4
    assert page.run("document.querySelectorAll('.card h2').length") > 3
    page.run("document.querySelector('.back').click()")
    page.wait("document.documentElement.dataset.state === 'ready'")
    assert page.errors == []


def test_markup_in_names_and_cards_is_inert(visit, folder, values):
    page = visit()
    assert any(each["name"] == f"{EVIL}.x" for each in values)
    page.run("document.querySelector('#zoo thead th[data-key=name] button').click()")
    evil = next(path for path in folder.glob("models/*/index.html") if "onerror" in path.read_text())
    for address in (None, evil.as_uri()):
        if address:
            page.open(address)
            page.wait("document.readyState === 'complete' && !!document.querySelector('.card p')")
        assert page.run("typeof hacked") == "undefined"
        assert "onerror" in page.run("document.body.innerText")
        assert page.run("document.querySelectorAll('[onerror], img[src=x]').length") == 0
    assert page.errors == []


@pytest.mark.parametrize(("width", "dark"), [(390, True), (390, False), (1280, False)])
def test_pages_fit_and_can_be_read(visit, folder, dark, width):
    for part in ("index", "model"):
        page = visit(width=width, height=844, phone=width < 500, dark=dark)
        if part == "model":
            page.open((folder / "models" / REAL / "index.html").as_uri(), width=width, phone=width < 500, dark=dark)
            page.wait("document.readyState === 'complete' && !!document.querySelector('.card p')")
        page.run("document.querySelectorAll('details').forEach((part) => { part.open = true })")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        pairs = page.run(CONTRAST)
        assert len(pairs) > 60
        assert [pair for pair in pairs if pair[0] < 4.5] == []
        assert page.run("[...document.querySelectorAll('table')].flatMap((t) => [...t.tHead.querySelectorAll('th')])"
                        ".every((head) => head.scope === 'col')")  # fmt: skip
        ground = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(ground) < 40 if dark else min(ground) > 215
        assert page.errors == []
