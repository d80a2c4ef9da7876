"""What tests of the zoo page share: two releases, one of them hostile, and a reader of pages."""

import html.parser

import pytest

from .made_up import write_release

EVIL = "<script>hacked = 1</script>"
EVIL_CARD = f"""---
license: mit
---

# Title {EVIL}

{EVIL} <img src=x onerror="hacked = 1"> [a](javascript:hacked=1) [b](recipe.toml) [c](../../../etc/passwd) [d](gone.txt)
![there](https://example.org/x.png "{EVIL}") ![here](figures/a%20b.png) ![gone](figures/gone.png)

| {EVIL} | b |
|---|---|
| `{EVIL}` | 2 |
"""


class Page(html.parser.HTMLParser):
    """Links, the tags in order, and the table's rows as lists of texts."""

    def __init__(self, path):
        super().__init__()
        self.links, self.tags, self.rows, self.text, self._cell = [], [], [], "", False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._cell = tag in ("td", "th") or (self._cell and tag != "script")
        if self._cell and tag == "small":
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data.strip(" \n").replace("\xa0", " ")

    def find(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Two releases, one of them hostile."""
    folder = tmp_path_factory.mktemp("cards")
    runs = [("quick", "8/255", 40, 30, 20), ("standard", "8/255", 40, 30, 15), ("fast", "4/255", 40, 30, 18)]
    write_release(folder / "good one", "rnas_cl_s3", runs, name="rnas_cl_s3.good")
    labels = [EVIL, *"123456789"]
    evil = write_release(
        folder / "evil", "rnas_resnet20_s3", [("quick", "8/255", 20, 12, 9)], name=f"a{EVIL}.b",
        dataset=f'd"{EVIL}', card=EVIL_CARD, labels=labels,
    )  # fmt: skip
    (evil / "figures").mkdir()
    (evil / "figures" / "a b.png").write_bytes(b"\x89PNG")
    (evil / "page.html").write_text(EVIL)
    (evil / ".hidden.json").write_text("{}")
    return folder
