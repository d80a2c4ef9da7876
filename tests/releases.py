"""Releases that do not exist, as their folders would be read."""

from rnas_zoo.hub import results


def run(eps, protocol, robust, n=100, norm="linf", clean=0.9):
    return {
        "norm": norm,
        "eps": eps,
        "protocol": protocol,
        "n": n,
        "clean_accuracy": clean,
        "robust_accuracy": robust,
        "interval": [robust - 0.05, robust + 0.05],
        "attacks": {},
    }


def release(name, dataset, parameters, macs, threat, clean, *runs):
    return results.Result(
        name=name,
        dataset=dataset,
        parameters=parameters,
        macs=macs,
        training="pgd-7",
        threat=threat,
        clean={"clean_accuracy": clean, "n": 100},
        pgd20=None,
        strongest=None,
        cost="",
        sizes={},
        runs=runs,
    )


RELEASES = [
    release(
        "rnas_b.pgd_cifar10_linf8", "cifar10", 300_000, 9_000_000, "L∞ 8/255", 0.80,
        run("8/255", "quick", 0.45, 200), run("8/255", "standard", 0.40), run("4/255", "fast", 0.60),
    ),
    release(
        "rnas_a.pgd_cifar10_linf8", "cifar10", 100_000, 5_000_000, "L∞ 8/255", 0.70,
        run("8/255", "quick", 0.38), run("8/255", "fast", 0.35, 50), run("8/255", "transfer", 0.99),
    ),
    release(
        "rnas_a.clean_cifar10", "cifar10", 100_000, 5_000_000, "L∞ 8/255", 0.95,
        run("8/255", "standard", 0.0), run("0.5", "standard", 0.01, norm="l2"),
    ),
    release("rnas_c.pgd_digits_linf16", "digits", 50_000, 12_000_000, "L∞ 16/255", 0.99, run("16/255", "quick", 0.86)),
]  # fmt: skip
A, B, CLEAN, C = (RELEASES[i].name for i in (1, 0, 2, 3))
