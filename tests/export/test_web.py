"""The web page in a real browser: its answers are those of onnxruntime in Python."""

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnas_zoo.data.sizes import fit
from rnas_zoo.deploy.runtime import Session

from .browser import COLOURS, Browser, find

READY = "document.documentElement.dataset.state === 'ready'"
PROBLEM = "!document.getElementById('problem').hidden"
TOLERANCE = 1e-4
CONTRAST = (
    f"(() => {{{COLOURS}"
    + """
  return [...document.querySelectorAll("h1, h2, h3, p, li span, td, th, label span, .button, figcaption, .target, b")]
    .filter((node) => node.innerText?.trim() && node.checkVisibility({ visibilityProperty: true }))
    .map((node) => {
      const [a, b] = [luminance(getComputedStyle(node).color), luminance(ground(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.innerText];
    });
})()"""
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(build, tmp_path_factory):
    """Address and folder of the built page, served from a subfolder by a plain file server."""
    if find() is None:
        pytest.skip("waits for Chromium: `apt-get install chromium`, or any Chrome on the PATH")
    root = tmp_path_factory.mktemp("www")
    try:
        build.build(root / "deep" / "page")
    except build.OfflineError as error:
        pytest.skip(f"waits for onnxruntime-web from npm: {error}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/deep/page", root / "deep" / "page"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    browser = Browser(find(), tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(site, browser):
    """The browser with the page loaded and all its photos counted."""
    browser.open(f"{site[0]}/index.html")
    browser.wait(READY)
    return browser


@pytest.fixture(scope="module")
def packs(build):
    """Pictures by set and what they show."""
    with (
        np.load(build.CARDS / build.ORDINARY / "check.npz") as ordinary,
        np.load(build.CARDS / build.ROBUST / "check.npz") as robust,
    ):
        sets = {"original": ordinary["images"], "ordinary": ordinary["adversarial"], "robust": robust["adversarial"]}
        return sets, ordinary["labels"]


@pytest.fixture(scope="module")
def expected(build):
    """Probabilities (n, classes) of a network of the page for uint8 pictures, by onnxruntime in Python."""
    sessions = {
        "ordinary": Session(build.CARDS / build.ORDINARY / "model.onnx", provider="cpu"),
        "robust": Session(build.CARDS / build.ROBUST / "model.onnx", provider="cpu"),
    }

    def probabilities(network, pictures):
        logits = sessions[network].logits(pictures.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    return probabilities


def shown(page):
    """Network, set → the classes that the page shows, best first, as (label, probability)."""
    script = """[...document.querySelectorAll("ol")].filter((list) => list.checkVisibility()).map((list) => [
      list.closest("section").id, list.dataset.set,
      [...list.children].map((line) => [line.dataset.label, Number(line.dataset.probability), line.innerText])])"""
    return {(network, part): lines for network, part, lines in page.run(script)}


def check_shown(lines, row, labels):
    order = np.argsort(-row, kind="stable")[:3]
    assert [label for label, _, _ in lines] == [labels[i] for i in order]
    assert [share for _, share, _ in lines] == pytest.approx(row[order].tolist(), abs=TOLERANCE)
    for (label, share, text), rank in zip(lines, range(3), strict=True):
        assert text.startswith(label)
        if 0.005 <= share <= 0.995:
            assert abs(float(text.split()[-2]) / 100 - row[order[rank]]) <= 0.005 + TOLERANCE


def test_every_probability_is_that_of_python_and_nothing_is_complained_of(page, packs, expected):
    sets, labels = packs
    for network in ("ordinary", "robust"):
        for part, pictures in sets.items():
            script = f"""import("./app.js").then(async ({{ classify, photo }}) => {{
              const pictures = Array.from({{ length: {len(labels)} }}, (_, i) => photo("{part}", i));
              return (await classify("{network}", pictures)).map((row) => [...row]);
            }})"""
            found, wanted = np.array(page.run(script)), expected(network, pictures)
            assert np.abs(found - wanted).max() < TOLERANCE
            assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()
    assert page.errors == []


def test_the_page_counts_what_python_counts(page, packs, expected):
    sets, labels = packs
    for network in ("ordinary", "robust"):
        cells = page.run(f"[...document.querySelectorAll('[data-model={network}] td')].map((cell) => cell.innerText)")
        right = [(expected(network, part).argmax(axis=1) == labels).sum() for part in sets.values()]
        assert [int(cell) for cell in cells] == right


@pytest.mark.parametrize("aim", ["ordinary", "robust"])
def test_a_picked_photo_and_its_attacked_copy_are_answered(page, packs, expected, site, aim):
    sets, labels = packs
    names = json.loads((site[1] / "about.json").read_text())["labels"]
    page.run(f"document.querySelector('input[name=aim][value={aim}]').click()")
    page.run("document.querySelector('input[name=photo][value=\"5\"]').click()")
    page.wait(f"document.getElementById('truth').innerText.endsWith('{names[labels[5]]}')")
    page.wait(f"document.querySelector('#{aim} .target').classList.contains('on')")
    lists = shown(page)
    for network in ("ordinary", "robust"):
        for part, pictures in (("original", sets["original"]), ("attacked", sets[aim])):
            check_shown(lists[network, part], expected(network, pictures[5:6])[0], names)
    assert page.errors == []
    for canvas, pixels in (
        ("original", sets["original"][5]),
        ("attacked", sets[aim][5]),
        ("change", 128 + 15 * (sets[aim][5].astype(int) - sets["original"][5])),
    ):
        drawn = page.run(f"[...document.getElementById('{canvas}').getContext('2d').getImageData(0, 0, 32, 32).data]")
        assert (np.reshape(drawn, (32, 32, 4))[..., :3] == pixels).all()
    page.errors.clear()  # Chromium warns of reading a canvas twice, which only this test does


@pytest.mark.parametrize("size", [(32, 32), (45, 33), (33, 45), (301, 199), (20, 9), (33, 200)])
def test_a_photo_is_brought_to_size_as_python_does_it(page, size):
    """To the last bit; newer Pillows begin tall pictures with the columns, which moves some values by one."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]).ravel().tolist()
    image = f"{{ data: {json.dumps(data)}, width: {size[0]}, height: {size[1]} }}"
    found = page.run(f"import('./fit.js').then(({{ fit }}) => [...fit({image})])")
    wanted = np.asarray(fit(Image.fromarray(pixels), (32, 32), pad=False))
    assert np.abs(np.reshape(found, (32, 32, 3)) - wanted.astype(int)).max() <= (1 if size == (33, 200) else 0)


def test_an_own_photo_is_answered_and_a_file_that_is_none_is_refused(page, packs, expected, site, tmp_path):
    names = json.loads((site[1] / "about.json").read_text())["labels"]
    photo = Image.fromarray(packs[0]["original"][7]).resize((90, 61), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    page.choose("#upload", tmp_path / "photo.png")
    page.wait("document.getElementById('truth').innerText === 'your own'")
    lists = shown(page)
    assert set(lists) == {("ordinary", "original"), ("robust", "original")}
    picture = np.asarray(fit(photo, (32, 32), pad=False))[None]
    for network in ("ordinary", "robust"):
        check_shown(lists[network, "original"], expected(network, picture)[0], names)
    (tmp_path / "letter.png").write_text("no picture")
    page.choose("#upload", tmp_path / "letter.png")
    page.wait(PROBLEM)
    assert "letter.png is no picture" in page.run("document.getElementById('problem').innerText")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_overflows_and_everything_can_be_read(site, browser, dark, tmp_path):
    browser.open(f"{site[0]}/", width=390, height=844, phone=True, dark=dark)
    browser.wait(READY)
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    pairs = browser.run(CONTRAST)
    assert len(pairs) > 30
    assert [pair for pair in pairs if pair[0] < 4.5] == []
    unnamed = "[...document.querySelectorAll('[role=img]')].filter((node) => !node.ariaLabel).length"
    assert browser.run(unnamed) == 0
    browser.screenshot(tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as picture:
        assert picture.width == 780
        ground = picture.convert("L").getpixel((2, 2))
    assert ground < 40 if dark else ground > 215
    assert browser.errors == []


def test_a_missing_file_is_told_in_the_page(site, browser):
    copy = Path(shutil.copytree(site[1], site[1].parent / "broken"))
    (copy / "models" / "robust.onnx").unlink()
    browser.open(site[0].replace("page", "broken") + "/")
    browser.wait(PROBLEM)
    words = browser.run("document.getElementById('problem').innerText")
    assert "models/robust.onnx: the server answered 404" in words
    assert not browser.run("document.getElementById('status').checkVisibility()")


def test_the_sources_opened_without_a_build_say_what_to_do(site, browser, build):
    browser.open((build.HERE / "index.html").as_uri())
    browser.wait(PROBLEM)
    assert "make web" in browser.run("document.getElementById('problem').innerText")
