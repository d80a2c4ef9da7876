"""Verification: exact where the truth is known, and the same verdict for an image wherever it stands."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnas_zoo
from rnas_zoo import data
from rnas_zoo.attacks import Threat
from rnas_zoo.errors import DataError, OnnxFileError, UnknownNameError, UsageError
from rnas_zoo.reference import subject
from rnas_zoo.verification import evidence, protocols, sweep
from rnas_zoo.verification import run as verification

verify, curve = (partial(function, device="cpu", protocol="quick") for function in (verification.verify, sweep.curve))
THREATS = [Threat("linf", 0.04), Threat("l2", 0.2)]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=["linf", "l2"])


class Linear(nn.Module):
    """Two classes, linear in the image: the exact robust accuracy of interior images has a closed form."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        weight = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(weight - weight.mean((1, 2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weight)

    def robust(self, x: Tensor, y: Tensor, threat: Threat) -> np.ndarray:
        with torch.no_grad():
            towards = (self.weight[1] - self.weight[0]).double()
            margin = torch.einsum("nchw,chw->n", x.double(), towards) * (2 * y - 1)
            size = towards.abs().sum() if threat.norm == "linf" else towards.norm()
            return (margin > threat.eps * size).numpy()


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    model = Linear()
    x = 0.3 + 0.4 * torch.rand(40, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    y = model(x).argmax(1)
    y[::9] = 1 - y[::9]
    return model, x, y


@pytest.fixture
def conv(small_net, small_batch) -> tuple[nn.Module, Tensor, Tensor]:
    """The shared network in single precision; a few labels are wrong."""
    x, y = small_batch
    y = y.clone()
    y[::6] = (y[::6] + 1) % 4
    return small_net.float(), x.float(), y


def robust(report) -> np.ndarray:
    table = report.verdicts
    return table["clean_correct"] & (table["broken_by"] == "") & ~table["refused"]


# --- truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", [Threat("linf", 0.015), Threat("l2", 0.1)], ids=["linf", "l2"])
def test_a_linear_model_gets_its_exact_robust_accuracy(linear, threat):
    model, x, y = linear
    exact = model.robust(x, y, threat)
    assert 0.2 < exact.mean() < 0.8
    report = verify(model, x, y, threat=threat)
    clean = (model(x).argmax(1) == y).numpy()
    assert report.clean_accuracy == clean.mean() == pytest.approx(35 / 40)
    np.testing.assert_array_equal(robust(report), exact)
    assert report.robust_accuracy == exact.mean()
    for attack in ("fgsm", "pgd20"):
        assert report.accuracy_under(attack) == pytest.approx(exact.mean())
        assert report.run["attacks"][attack]["broken"] == int((clean & ~exact).sum())
    assert report.accuracy_under("noise") > exact.mean() + 0.1, "noise is a control, not an attack"
    assert report.run["interval"] == list(evidence.clopper_pearson(int(exact.sum()), 40))


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_a_constant_model_is_as_robust_as_it_is_right(answer):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), answer), 3).float() + 0 * x.sum((1, 2, 3))[:, None]

    y = np.arange(30) % 3
    report = verify(Constant(), np.random.default_rng(0).random((30, 3, 4, 4), np.float32), y)
    assert report.clean_accuracy == report.robust_accuracy == pytest.approx(1 / 3)
    np.testing.assert_array_equal(robust(report), y == answer)
    assert all(report.run["attacks"][name]["broken"] == 0 for name in report.run["attacks"])


@each_threat
def test_adversarial_images_are_what_the_record_says(conv, threat):
    net, x, y = conv
    report = verify(net, x, y, threat=threat)
    x_adv, table = torch.from_numpy(report.x_adv), report.verdicts
    assert 0 <= report.x_adv.min() <= report.x_adv.max() <= 1
    distance = (x_adv - x).flatten(1).abs().amax(1) if threat.norm == "linf" else (x_adv - x).flatten(1).norm(dim=1)
    assert float(distance.max()) <= threat.eps + 1e-6
    np.testing.assert_allclose(table["norm"], distance.numpy(), atol=1e-6)
    with torch.no_grad():
        clean, found = net(x), net(x_adv)
    np.testing.assert_array_equal(report.predictions[0], clean.argmax(1).numpy())
    np.testing.assert_array_equal(report.predictions[1], found.argmax(1).numpy())
    correct, broken = (clean.argmax(1) == y).numpy(), table["broken_by"] != ""
    np.testing.assert_array_equal(table["clean_correct"], correct)
    np.testing.assert_array_equal(broken, correct & (found.argmax(1) != y).numpy())
    assert broken.any()
    assert not broken[correct].all()
    assert (table["step"][broken] > 0).all()
    assert (table["step"][~broken] == -1).all()
    own = found.gather(1, y[:, None])[:, 0]
    others = torch.where(nn.functional.one_hot(y, 4).bool(), torch.tensor(-torch.inf), found).amax(1)
    np.testing.assert_allclose(table["margin"], (own - others).numpy(), atol=1e-4)
    assert table["position"].tolist() == list(range(24))
    for image, text in zip(x, table["pixels_sha256"], strict=True):
        assert text == data.pixel_hash(np.rint(image.numpy().transpose(1, 2, 0) * 255).astype(np.uint8))


def test_the_run_describes_itself_and_its_records_add_up(conv, tmp_path):
    net, x, y = conv
    report = verify(net, x, y, threat=THREATS[0], seed=7)
    run = report.run
    assert (run["n"], run["seed"], run["norm"], run["eps"], run["protocol"]) == (
        24,
        7,
        "linf",
        "10.2/255",
        "quick",
    ) or (run["eps"] == "0.04")
    assert Threat(run["norm"], run["eps"]) == THREATS[0]
    assert run["subject"]["kind"] == "torch"
    assert run["dataset"]["images_sha256"] == data.images_hash(list(report.verdicts["pixels_sha256"]))
    assert run["params"]["pgd20"]["steps"] == 20
    # noise looks 5 times; FGSM looks, climbs, looks; PGD-20 climbs 20 times and looks 21 times.
    passes = {name: attack["passes"] / 24 for name, attack in run["attacks"].items()}
    assert passes == {"noise": 5, "fgsm": 3, "pgd20": 41}
    assert run["passes"] == 24 * 49
    for name, attack in run["attacks"].items():
        assert attack["broken"] >= int((report.verdicts["broken_by"] == name).sum())
    evidence.append(tmp_path, run, report.verdicts)
    runs, tables = evidence.read(tmp_path)
    assert runs == [run]
    evidence.check(runs[0], tables[0])


class Fickle(nn.Module):
    """A network that looks at its values: no cheaper copy can be traced, so every question reaches it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if bool(x.sum() > -1) else self.network(-x)


def test_reported_passes_are_those_made(conv):
    net, x, y = Fickle(conv[0]), conv[1][:16], conv[2][:16]
    seen = []
    net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    chosen = subject(net, image_size=(8, 8))
    seen.clear()
    report = verify(chosen, x, y, batch_size=16, checks=False)
    climbs = 16 * (1 + 20)
    looks = 16 * (1 + 2 * 3)  # the clean verdict, and the judge's two looks at each attack's images
    assert sum(seen) == report.run["passes"] - climbs + looks


# --- images that get no verdict ---------------------------------------------------------------------------------------


class Faulty(nn.Module):
    """The linear model, but bright images, and with `touchy` moved ones, give logits that are not numbers."""

    def __init__(self, bad: float, touchy: Tensor | None = None) -> None:
        super().__init__()
        self.linear, self.bad, self.touchy = Linear(), bad, touchy

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x)
        if self.touchy is None:
            faulty = x.mean((1, 2, 3)) > 0.6
        else:
            nearest = (x[:, None] - self.touchy[None]).flatten(2).abs().amax(2).amin(1)
            faulty = nearest > 1e-4
        return torch.where(faulty[:, None], torch.full_like(logits, self.bad), logits)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_images_without_finite_logits_are_refused_and_never_robust(linear, bad):
    _, x, y = linear
    x = x.clone()
    x[3:7] += 0.25
    y = Faulty(bad).linear(x).argmax(1)
    report = verify(Faulty(bad), x, y, threat=Threat("linf", 0.01))
    assert np.flatnonzero(report.verdicts["refused"]).tolist() == [3, 4, 5, 6]
    assert report.run["refused"] == 4
    assert report.run["n"] == 40
    assert not robust(report)[3:7].any()
    assert report.robust_accuracy == robust(report).mean() == Faulty(bad).linear.robust(x, y, Threat("linf", 0.01))[
        [i for i in range(40) if not 3 <= i < 7]
    ].sum() / 40  # fmt: skip
    assert "4 images gave logits that are not finite" in report.run["flags"][0]
    evidence.check(report.run, report.verdicts)


def test_a_model_that_fails_on_moved_images_is_robust_on_none(linear):
    model, x, _ = linear
    y = model(x).argmax(1)
    report = verify(Faulty(float("nan"), touchy=x), x, y)
    assert report.clean_accuracy == 1.0
    assert report.verdicts["refused"].all()
    assert report.robust_accuracy == 0.0
    assert (report.verdicts["broken_by"] == "").all(), "an image without a verdict is not broken either"


def test_a_sound_model_has_no_flags(linear):
    assert verify(*linear).run["flags"] == []


# --- independence -----------------------------------------------------------------------------------------------------


def table(report) -> list[tuple]:
    keys = ("pixels_sha256", "clean_correct", "broken_by", "step", "refused")
    return list(zip(*(report.verdicts[key].tolist() for key in keys), strict=True))


@each_threat
def test_verdicts_do_not_depend_on_the_batch_size(conv, threat):
    whole = verify(*conv, threat=threat)
    for size in (1, 7, 64):
        report = verify(*conv, threat=threat, batch_size=size)
        assert table(report) == table(whole)
        np.testing.assert_allclose(report.verdicts["margin"], whole.verdicts["margin"], atol=1e-4)
        assert report.robust_accuracy == whole.robust_accuracy
        assert report.run["attacks"] == whole.run["attacks"]


def test_verdicts_do_not_depend_on_how_many_images_follow(conv):
    whole = verify(*conv, threat=THREATS[0], batch_size=8)
    for n in (1, 5, 8, 23):
        report = verify(*conv, threat=THREATS[0], batch_size=8, n=n)
        assert report.run["n"] == n
        assert table(report) == table(whole)[:n]
        np.testing.assert_array_equal(report.x_adv, whole.x_adv[:n])


def test_verdicts_follow_an_image_by_its_position(conv):
    net, x, y = conv
    whole = verify(net, x, y, threat=THREATS[0])
    order = np.array([17, 3, 22, 0, 8])
    part = verify(net, x[order], y[order], threat=THREATS[0], positions=order)
    assert table(part) == [table(whole)[i] for i in order]
    assert part.verdicts["position"].tolist() == order.tolist()
    np.testing.assert_allclose(part.x_adv, whole.x_adv[order], atol=1e-6)


def test_the_seed_keys_the_draws_and_not_the_images(conv):
    first, other = (verify(*conv, threat=THREATS[0], seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.x_adv, other.x_adv)
    assert first.run["dataset"] == other.run["dataset"]


def test_verification_does_not_touch_global_random_numbers_or_gradients(conv):
    net, x, y = conv
    before = torch.get_rng_state()
    with torch.no_grad():
        verify(net, x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


# --- what is given ----------------------------------------------------------------------------------------------------


def test_two_lines_suffice(conv):
    module, x, y = conv
    report = rnas_zoo.verify(module, x, y)
    assert report.robust_accuracy <= report.clean_accuracy == pytest.approx(20 / 24)
    assert (report.run["norm"], report.run["eps"], report.run["protocol"]) == ("linf", "8/255", "standard")


def test_images_may_be_arrays_tensors_or_bytes(conv):
    net, x, y = conv
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    pixels = images.transpose(0, 3, 1, 2) / np.float32(255)
    expected = verify(net, pixels, y.numpy())
    for given, labels in [
        (images, y),
        (torch.from_numpy(pixels).double(), y.int()),
        (torch.from_numpy(images), y.numpy()),
    ]:
        report = verify(net, given, labels)
        assert table(report) == table(expected)
        np.testing.assert_array_equal(report.x_adv, expected.x_adv)


def test_a_data_set_is_taken_from_its_start_in_order(small_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    report = verify(model, data_name=str(small_data), n=5)
    test = data.load(small_data).test
    assert report.run["n"] == 5
    assert (report.run["dataset"]["name"], report.run["dataset"]["split"]) == ("blobs", "test")
    assert report.verdicts["pixels_sha256"].tolist() == [data.pixel_hash(image) for image in test.images[:5]]
    assert verify(model, data_name=str(small_data), n=1000).run["n"] == 24
    given = verify(model, test.images[:5], test.labels[:5])
    assert table(given) == table(report)


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 28, 28), (3, 4, 9)])
def test_a_module_for_images_of_any_size_is_verified(shape):
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    assert verify(model, x, model(x).argmax(1)).clean_accuracy == 1.0


@pytest.mark.parametrize(
    ("scale", "shift", "text"),
    [(255, 0, "from 0 to 255"), (2, -1, "from -1 to 1"), (1, 0.5, "to 1.5"), (float("nan"), 0, "nan")],
)
def test_images_outside_0_to_1_are_refused_with_their_range(scale, shift, text):
    x = torch.rand(4, 3, 5, 5)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, 1.0
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]") as error:
        verify(Linear(), x * scale + shift, torch.zeros(4, dtype=torch.long))
    assert text in str(error.value)


@pytest.mark.parametrize("label", [2, 9, -1])
def test_labels_without_a_class_are_refused_with_both_numbers(label):
    y = torch.tensor([0, 1, label])
    with pytest.raises(
        DataError, match=rf"has 2 classes, but the labels .* go from {min(label, 0)} to {max(label, 1)}"
    ):
        verify(Linear(), torch.rand(3, 3, 5, 5), y)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((4, 5, 5, 3), np.float32), np.zeros(4, int)),
        (np.zeros((4, 3, 5, 5), np.uint8), np.zeros(4, int)),
        (np.zeros((3, 5, 5), np.float32), np.zeros(3, int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros(3, int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros((4, 2), int)),
        (np.zeros((4, 3, 5, 5), np.float32), np.zeros(4)),
        (np.zeros((0, 3, 5, 5), np.float32), np.zeros(0, int)),
    ],
)
def test_images_and_labels_of_the_wrong_shape_or_type_are_refused(x, y):
    with pytest.raises(DataError, match="must be"):
        verify(Linear(), x, y)


@pytest.mark.parametrize("n", [0, -3])
def test_no_images_are_refused(linear, n):
    with pytest.raises(UsageError, match="at least one image"):
        verify(*linear, n=n)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"protocol": "quik"}, UnknownNameError, "unknown protocol 'quik'"),
        ({"batch_size": 0}, UsageError, "batch_size"),
        ({"positions": np.arange(3)}, UsageError, "one position per image"),
        ({"device": "abacus"}, UsageError, "unknown device"),
    ],
)
def test_senseless_arguments_are_refused(linear, changes, error, text):
    with pytest.raises(error, match=text):
        verify(*linear, **changes)


def test_images_are_needed(linear):
    with pytest.raises(UsageError, match="give images x and labels y"):
        verify(linear[0])


@pytest.mark.parametrize("output", [lambda x: x.sum((1, 2, 3)), lambda x: (x.sum((2, 3)),), lambda x: x])
def test_a_module_that_returns_no_logits_is_refused(output):
    class Odd(nn.Module):
        def forward(self, x: Tensor):
            return output(x)

    with pytest.raises(UsageError, match=r"must return logits \(N, classes\)"):
        verify(Odd(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))


def test_progress_counts_images(conv):
    class Recorder:
        def __init__(self) -> None:
            self.started, self.done = None, 0

        def start(self, name: str, total: int, done: int = 0, *, timed: bool = True) -> None:
            self.started = total

        def advance(self, note: str = "", by: int = 1) -> None:
            self.done += by
            self.note = note

    recorder = Recorder()
    verify(*conv, batch_size=7, reporter=recorder)
    assert recorder.started == recorder.done == 24
    assert recorder.note.startswith("robust ≤ ")


# --- curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_curve_is_the_intersection_of_separate_verifications(conv, norm):
    net, x, y = conv
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    labels = y.numpy()
    sizes = [0.0, 0.01, 0.02, 0.05] if norm == "linf" else [0.0, 0.1, 0.2, 0.4]
    points = curve(net, data.ImageSet(images, labels), norm, sizes)
    assert [eps for eps, _ in points] == sizes
    left = np.ones(24, bool)
    for eps, accuracy in points:
        left &= robust(verify(net, images, labels, threat=Threat(norm, eps)))
        assert accuracy == left.mean()
    values = [accuracy for _, accuracy in points]
    assert values == sorted(values, reverse=True)
    with torch.no_grad():
        clean = net(data.to_pixels(images)).argmax(1).numpy() == labels
    assert values[0] == clean.mean()
    assert len(set(values)) > 2


def test_a_curve_of_a_linear_model_is_exact(linear):
    model, x, y = linear
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    pixels = data.to_pixels(images)
    sizes = [0.0, 0.005, 0.01, 0.02, 0.03, 0.1]
    points = curve(model, data.ImageSet(images, y.numpy()), "linf", sizes)
    assert [accuracy for _, accuracy in points] == [
        model.robust(pixels, y, Threat("linf", eps)).mean() for eps in sizes
    ]
    assert points[-1][1] == 0.0


def test_a_curve_needs_no_more_than_network_images_and_sizes(linear):
    model, x, y = linear
    images = data.ImageSet(np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8), y.numpy())
    assert sweep.curve(model, images, "linf", [0.0]) == [(0.0, 35 / 40)]


class Flat(Linear):
    """The linear model without a gradient: only the draws decide which images break."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach() + 0 * x.sum((1, 2, 3))[:, None]


def test_a_curve_draws_for_an_image_what_its_position_says(linear):
    _, x, y = linear
    images = np.rint(x.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    sizes = [0.01, 0.02, 0.03, 0.04, 0.05]
    points = curve(Flat(), data.ImageSet(images, y.numpy()), "linf", sizes)
    left = np.ones(40, bool)
    for eps, accuracy in points:
        left &= robust(verify(Flat(), images, y, threat=Threat("linf", eps)))
        assert accuracy == left.mean()
    assert len(dict(points).values()) == len(set(dict(points).values()))


def test_the_sizes_of_a_curve_ascend(linear):
    with pytest.raises(UsageError, match="must ascend"):
        curve(linear[0], data.ImageSet(np.zeros((1, 5, 5, 3), np.uint8), np.zeros(1, int)), "linf", [0.2, 0.1])


# --- ONNX -------------------------------------------------------------------------------------------------------------


def export(net: nn.Module, x: Tensor, path, dynamic: bool = True) -> str:
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), str(path), dynamo=True, external_data=False, verbose=False, dynamic_shapes=shapes
        )  # fmt: skip
    return str(path)


def test_an_onnx_file_gets_the_verdicts_of_the_network_it_came_from(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:2], tmp_path / "model.onnx")
    expected = verify(net, x, y, threat=THREATS[0])
    report = verify(path, x, y, threat=THREATS[0])
    assert table(report) == table(expected)
    np.testing.assert_allclose(report.verdicts["margin"], expected.verdicts["margin"], atol=1e-3)
    assert report.run["attacks"] == expected.run["attacks"]
    assert (report.run["subject"]["kind"], report.run["subject"]["file"]) == ("onnx", "model.onnx")
    assert report.run["flags"] == []
    with pytest.raises(DataError, match=r"takes images of 8x8, arrays has 6x6"):
        verify(path, torch.rand(2, 3, 6, 6), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="4 classes"):
        verify(path, x[:2], torch.tensor([0, 7]))


def test_an_onnx_file_of_fixed_batch_size_is_verified_at_that_size(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:1], tmp_path / "one.onnx", dynamic=False)
    report = verify(path, x[:6], y[:6], threat=THREATS[0], batch_size=1)
    assert table(report) == table(verify(net, x[:6], y[:6], threat=THREATS[0]))
    assert table(verify(path, x[:6], y[:6], threat=THREATS[0])) == table(report), "or at any other"


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256)) * 4])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"bad\.onnx"):
        verify(str(tmp_path / "bad.onnx"), torch.rand(1, 3, 8, 8), torch.tensor([0]))


def test_a_cut_off_or_missing_onnx_model_is_refused(conv, tmp_path):
    net, x, y = conv
    path = export(net, x[:2], tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    for kept in (0.3, 0.9):
        (tmp_path / "model.onnx").write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(OnnxFileError, match=r"model\.onnx"):
            verify(path, x, y)
    with pytest.raises(OnnxFileError, match="no such file"):
        verify(str(tmp_path / "none.onnx"), x, y)


def test_protocols_begin_with_the_control():
    assert [stage.name for stage in protocols.PROTOCOLS["quick"]] == ["noise", "fgsm", "pgd20"]


def test_a_module_keeps_its_modes():
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
    module = torch.nn.Sequential(inner, torch.nn.Flatten()).train()
    inner[1].eval()
    before = [m.training for m in module.modules()]
    statistics = inner[1].running_mean.clone()
    rnas_zoo.verify(module, np.random.default_rng(0).random((4, 3, 8, 8)), np.zeros(4, int), batch_size=2, device="cpu")
    assert [m.training for m in module.modules()] == before
    assert torch.equal(inner[1].running_mean, statistics)


def test_protocols_that_need_somebody_else_s_images_or_model_say_so(linear):
    with pytest.raises(UsageError, match="adversarial"):
        verify(*linear, protocol="given")
    with pytest.raises(UsageError, match="transfer_from"):
        verify(*linear, protocol="transfer")
    with pytest.raises(UsageError, match="not both"):
        verify(*linear, transfer_from=linear[0], adversarial=linear[1])


def test_evidence_is_computed_in_full_precision():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return x.mean((2, 3)) * 20

    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = images.reshape(6, -1, 3).mean(1).argmax(1)
    verify(Watched().eval(), images, labels, threat=Threat("linf", 4 / 255))
    assert set(seen) == {False}
