"""The zoo page as files: its numbers are the evidence's, its links lead somewhere."""

import hashlib
import json
import math
import os
import re
import shutil
from urllib.parse import unquote, urlsplit

import pytest
from safetensors.torch import load_file

from rnas_zoo import resources
from rnas_zoo.errors import DataError
from rnas_zoo.hub import site
from rnas_zoo.hub.site import markdown
from rnas_zoo.hub.site.plots import place_numbers
from rnas_zoo.models.weights import tensor_digest

from . import sites
from .sites import EVIL, Page

cards = sites.cards  # fixture

CARDS = resources.folder("model_cards")
STRENGTH = ("quick", "fast", "standard", "full")


@pytest.fixture(scope="module")
def built(cards, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "site"
    assert sorted(site.build(out, cards=cards)) == [f"a{EVIL}.b", "rnas_cl_s3.good"]
    return out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A stand-in for the built web page, with the network of one bundled release."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "index.html").write_text("<title>demo</title>")
    (folder / "about.json").write_text("{}")
    (folder / "models").mkdir()
    shutil.copyfile(CARDS / "rnas_cl_s3.clean_cifar10" / "model.onnx", folder / "models" / "ordinary.onnx")
    return folder


@pytest.fixture(scope="module")
def bundled(demo, tmp_path_factory):
    """The site of the bundled releases."""
    out = tmp_path_factory.mktemp("bundled") / "site"
    names = site.build(out, web_demo=demo)
    assert sorted(names) == sorted(path.parent.name for path in CARDS.glob("*/config.json"))
    return out


def pages(folder):
    return sorted(path for path in folder.rglob("*.html") if "demo" not in path.relative_to(folder).parts)


def measured(folder, norm, eps):
    """The runs on the weights under one threat, as a plain reading of the JSON gives them."""
    runs = json.loads((folder / "robustness.json").read_text())["runs"]
    return [run for run in runs if run["subject"]["kind"] == "torch" and (run["norm"], run["eps"]) == (norm, eps)]


def strongest(folder, norm="linf", eps=None):
    """The run by the strongest protocol."""
    return max(measured(folder, norm, eps), key=lambda run: (STRENGTH.index(run["protocol"]), run["n"]), default=None)


def largest(folder, eps):
    """The run with the most images, whose clean accuracy is the most certain."""
    return max(measured(folder, "linf", eps), key=lambda run: run["n"])


def shown(run):
    """How the table writes a run."""
    if run is None:
        return "–"
    mark = "" if run["protocol"] == "standard" else run["protocol"]
    low, high = (f"{100 * end:.1f}" for end in run["interval"])
    return f"{mark}{100 * run['robust_accuracy']:.1f} % {low}–{high}"


@pytest.mark.parametrize("which", ["built", "bundled"])
def test_every_link_leads_to_a_file_of_the_site(which, request):
    folder = request.getfixturevalue(which)
    found = 0
    for path in pages(folder):
        for link in Page(path).links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data", "javascript"):
                assert parts.scheme != "javascript"
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            assert target.is_relative_to(folder.resolve()), link
            assert target.is_file(), f"{path}: {link}"
            found += 1
    assert found > 20


def test_the_table_says_what_the_evidence_says(bundled):
    page = Page(bundled / "index.html")
    header, *rows = page.rows[: 1 + len(list(CARDS.glob("*/config.json")))]
    data = json.loads(re.search(r'id="data">(.*?)</script>', (bundled / "index.html").read_text())[1])
    sizes = {label.removeprefix("at ") for label in header if label.startswith("at ")}
    assert "8/255" in sizes <= {"2/255", "4/255", "8/255"}
    for row, values in zip(rows, data, strict=True):
        cells = dict(zip(header, row, strict=True))
        folder = next(path for path in CARDS.iterdir() if cells["Model"].split(" ")[0] == path.name)
        eps = cells["Threat model"].removeprefix("L∞ ")
        run = strongest(folder, eps=eps)
        assert cells["Robust"] == shown(run)
        assert values["robust"] == run["robust_accuracy"]
        assert values["protocol"] == run["protocol"]
        assert cells["Images"] == f"{run['n']:,}"
        assert cells["Clean"] == f"{100 * largest(folder, eps)['clean_accuracy']:.1f} %"
        for size in sizes:
            own = strongest(folder, eps=size)
            assert cells[f"at {size}"] == shown(own)
            assert values[f"L∞ {size}"] == (own and own["robust_accuracy"])
        genotype = folder / "genotype.json"
        origin = json.loads(genotype.read_text())["provenance"] if genotype.is_file() else {}
        assert cells["Status"] == origin.get("status", "designed by hand")
        assert cells["Method"] == origin.get("method", "–")
        assert cells["Parameters"] == f"{values['parameters']:,}"
    assert {values["name"]: values["parameters"] for values in data}["rnas_cl_s7.nfgsm_cifar10_linf8"] == 323_162
    datasets = [cells[1] for cells in rows]
    assert datasets == sorted(datasets, key=lambda name: (-datasets.count(name), name))


def test_weaker_protocols_are_marked_and_a_hostile_table_row_is_text(built):
    page = Page(built / "index.html")
    header, good, evil = page.rows[:3]
    good, evil = dict(zip(header, good, strict=True)), dict(zip(header, evil, strict=True))
    if evil["Model"].startswith("rnas_cl_s3"):
        good, evil = evil, good
    assert good["Robust"].startswith("37.5 %")
    assert good["at 4/255"].startswith("fast45.0 %")
    assert evil["Robust"].startswith("quick45.0 %")
    assert evil["Data set"] == f'd"{EVIL}'
    assert "at 2/255" not in header
    assert "Latency" not in header


def test_a_plot_is_to_scale(bundled):
    text = (bundled / "index.html").read_text()
    view = re.search(r'data-view="cifar10, L∞ 8/255">(.*?)</svg>', text, re.S)[1]
    number = r"(-?[\d.]+)"
    xs = [(math.log10(float(label.replace("k", "e3").replace("M", "e6"))), float(x)) for x, label in
          re.findall(rf'class="tick" x="{number}" y="[\d.]+" text-anchor="middle">([^<]+)<', view)]  # fmt: skip
    ys = [(float(label), float(y)) for y, label in
          re.findall(rf'class="tick" x="[\d.]+" y="{number}" text-anchor="end">([^<]+)<', view)]  # fmt: skip
    dots = re.findall(
        rf'<a href="models/([^/]+)/.*?<line x1="{number}".*?y1="{number}" y2="{number}".*?cy="{number}"', view, re.S
    )
    folders = [path.parent for path in CARDS.glob("*/config.json")]
    folders = [
        path for path in folders if json.loads((path / "config.json").read_text())["rnas_zoo"]["dataset"] == "cifar10"
    ]
    assert sorted(name for name, *_ in dots) == sorted(path.name for path in folders if strongest(path, eps="8/255"))

    def at(scale, place):
        (a, b), (c, d) = scale[0], scale[-1]
        return a + (place - b) / (d - b) * (c - a)

    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    parameters = {values["name"]: values["parameters"] for values in data}
    for name, x, high, low, y in dots:
        run = strongest(CARDS / name, eps="8/255")
        assert at(xs, float(x)) == pytest.approx(math.log10(parameters[name]), abs=0.005)
        found = [at(ys, float(place) + 4) for place in (low, y, high)]  # labels stand 4 below their lines
        wanted = [run["interval"][0], run["robust_accuracy"], run["interval"][1]]
        assert found == pytest.approx([100 * value for value in wanted], abs=0.1)
        hollow = re.search(rf'<a href="models/{re.escape(name)}/index.html" class="dot( hollow)?"', view)[1]
        assert bool(hollow) == (run["protocol"] in ("quick", "fast"))


def test_numbers_beside_near_points_do_not_cover_each_other():
    points = [(200.0, 100.0 + 9 * i, 90.0, 140.0) for i in range(4)]
    places = place_numbers(points)
    pairs = [(a, b) for i, a in enumerate(places) for b in places[:i]]
    assert all(abs(a[0] - b[0]) >= 12 or abs(a[1] - b[1]) >= 12 for a, b in pairs)


def test_the_curves_are_those_of_the_releases(bundled):
    table = Page(bundled / "index.html").rows
    header = next(i for i, row in enumerate(table) if row[0] == "size")
    names = table[header][1:]
    twins = [json.loads((CARDS / name / "twin.json").read_text())["name"] for name in names[:-1]]
    assert {*twins} == {names[-1]}
    rows = {row[0]: row[1:] for row in table[header + 1 :] if len(row) == len(names) + 1}
    for column, name in enumerate(names):
        ((_, points),) = json.loads((CARDS / name / "figures" / "curve.json").read_text()).items()
        measured = {f"{255 * eps:g}/255": f"{100 * accuracy:.1f} %" for eps, accuracy in points}
        told = {size: cells[column].rpartition(" ")[0] for size, cells in rows.items() if cells[column] != "–"}
        assert told == measured


def test_downloads_are_the_release_s_files(bundled, built, cards):
    for folder in CARDS.glob("*/config.json"):
        folder = folder.parent
        page = Page(bundled / "models" / folder.name / "index.html")
        offered = {unquote(link.removeprefix("files/")) for link in page.links if link.startswith("files/")}
        assert {"model.safetensors", "robustness.json", "verdicts.npz", "README.md"} <= offered
        assert ("model.onnx" in offered) == (folder / "model.onnx").is_file()
        for name in offered:
            content = (folder / name).read_bytes()
            assert (bundled / "models" / folder.name / "files" / name).read_bytes() == content
            assert hashlib.sha256(content).hexdigest() in page.text
    files = {path.name for path in (built / "models" / "evil").rglob("*") if path.is_file()}
    assert files >= {"a b.png", "model.safetensors"}
    assert not files & {"page.html", ".hidden.json"}


def test_the_demo_is_linked_where_it_is(bundled, built, demo):
    assert (bundled / "demo" / "models" / "ordinary.onnx").is_file()
    told = {path.parent.name: Page(path) for path in pages(bundled)}
    assert "demo/index.html" in Page(bundled / "index.html").links
    assert "Try this network" in told["rnas_cl_s3.clean_cifar10"].text
    assert "Open the demo" in told["rnas_cl_s7.nfgsm_cifar10_linf8"].text
    assert not any("demo" in link for path in pages(built) for link in Page(path).links)


def test_a_published_model_is_named_by_its_commit(cards, tmp_path, monkeypatch):
    config = json.loads((cards / "good one" / "config.json").read_text())
    copy = shutil.copytree(cards / "good one", tmp_path / "copy")
    digest = tensor_digest(load_file(copy / "model.safetensors"))
    config["pretrained_cfg"]["notes"] = [f"tensors-sha256:{digest}"]
    (copy / "config.json").write_text(json.dumps(config))
    listed = {"rnas_cl_s3.good": {"repo": "owner/good", "commit": "c" * 40, "digest": digest}}
    for given, wanted in ((digest, f"verify hf-hub:owner/good@{'c' * 40} --against-card"), ("0" * 64, "verify FOLDER")):
        listed["rnas_cl_s3.good"]["digest"] = given
        monkeypatch.setattr(site, "published_releases", lambda: listed)
        site.build(tmp_path / given[:9], cards=copy)
        text = Page(tmp_path / given[:9] / "models" / "copy" / "index.html").text
        assert wanted in text
        assert ("FOLDER: a folder" in text) == ("FOLDER" in wanted)


def test_a_card_is_its_markdown_and_nothing_of_it_acts(built, cards):
    page = Page(built / "models" / "evil" / "index.html")
    assert [attributes.get("src") for attributes in page.find("script")] == ["../../site.js"]
    assert not [attributes for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]
    assert [image["src"] for image in page.find("img")] == ["files/figures/a%20b.png"]
    assert "files/recipe.toml" in page.links
    assert page.text.count(EVIL) >= 4
    assert "license: mit" not in page.text
    assert page.find("th", scope="col")
    assert [attributes for attributes in page.find("div") if attributes.get("class") == "scroll"]
    index = (built / "index.html").read_text()
    assert index.count("<script") == 2
    assert EVIL not in index


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# T\n\n*a* `b<`", "<p><em>a</em> <code>b&lt;</code></p>\n"),
        ("[a](x.md) [b](y.md) [c](//e.org/x.md)", '<p><a href="f/x.md">a</a> b c</p>\n'),
        ("[a](https://e.org)", '<p><a href="https://e.org" rel="noopener">a</a></p>\n'),
        ("![a b](y.png)", "<p>a b</p>\n"),
        ("[t](#part) ![x](data:image/png;base64,AA)", "<p>t x</p>\n"),
    ],
)
def test_markdown(text, wanted):
    assert markdown.render(text, {"x.md"}, "f/") == wanted


def test_the_same_input_gives_the_same_bytes(built, cards, tmp_path, monkeypatch):
    moved = shutil.copytree(cards, tmp_path / "elsewhere")
    for path in moved.rglob("*"):
        os.utime(path, (0, 0))
    monkeypatch.chdir(tmp_path)
    site.build("again", cards="elsewhere")

    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content(tmp_path / "again") == content(built)
    everything = b"".join(content(built).values())
    assert str(tmp_path).encode() not in everything
    assert str(cards).encode() not in everything


def test_latencies_come_from_one_report(cards, tmp_path):
    run = {"runtime": "onnxruntime", "latency": {"1": {"p50": 0.0005}, "32": {"p50": 1.0}}}
    other = {"runtime": "torch", "latency": {"1": {"p50": 9.0}}}
    model = {"model": "rnas_cl_s3.good", "untrained": False, "runs": [other, run]}
    report = {"device": "cpu", "threads": 2, "models": [model, {**model, "model": "x", "untrained": True}]}
    (tmp_path / "bench.json").write_text(json.dumps(report))
    site.build(tmp_path / "site", cards=cards, latency=tmp_path / "bench.json")
    header, *rows = Page(tmp_path / "site" / "index.html").rows[:3]
    column = header.index("Latency")
    assert sorted(row[column] for row in rows) == ["0.5 ms 2 CPU threads", "–"]
    (tmp_path / "bench.json").write_text(json.dumps({**report, "models": []}))
    with pytest.raises(DataError, match="no onnxruntime run of"):
        site.build(tmp_path / "s", cards=cards, latency=tmp_path / "bench.json")
    (tmp_path / "bench.json").write_text("[1]")
    with pytest.raises(DataError, match="no report of `rnas-zoo bench"):
        site.build(tmp_path / "s", cards=cards, latency=tmp_path / "bench.json")
