"""Comparison of a new measurement of a certified model with its certificate."""

from collections.abc import Collection, Iterator, Mapping

from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.verification import Finding
from hf_cmim.measurement import Measurement
from hf_cmim.report import ModelFacts

SAMPLES_APART = 3
"""Number of samples that another device or release may classify differently; ours."""
RELATIVE_CHANGE = 0.02
ABSOLUTE_CHANGE = 1e-5
"""Tolerated differences of a CMI on another device or release, as a fraction and in nats; ours."""


def compare_measurement(
    certificate: Certificate, measured: Measurement, labels_fingerprints: Collection[str]
) -> Iterator[Finding]:
    """Compare accuracy and CMI with the certificate's figures for the same data, and yield the findings.

    Args:
        certificate: certificate with an evaluation or an audit.
        measured: new measurement of the same weights.
        labels_fingerprints: fingerprints of the labels, numbered in the model's and in the data's order of classes.
            An audit uses its students' order; neither accuracy nor CMI depends on the order.
    """
    certified = {}
    for name, facts in _certified_facts(certificate):
        if facts.labels_fingerprint in labels_fingerprints:
            certified[name] = facts
    if not certified:
        yield Finding(
            "measured again",
            False,
            f"the certificate has no figures for these {measured.num_samples:,} labels. Give the data set, split and"
            " limits of the certified measurement",
        )
    for name, facts in certified.items():
        difference = abs(facts.accuracy - measured.accuracy) * measured.num_samples
        yield Finding(
            "accuracy again",
            difference <= SAMPLES_APART,
            f"{100 * measured.accuracy:.2f} %, {name} says {100 * facts.accuracy:.2f} %: a difference of"
            f" {difference:.0f} in {measured.num_samples:,} samples, {SAMPLES_APART} are tolerated",
        )
        yield _compare_curves(name, dict(facts.curve), dict(zip(measured.temperatures, measured.cmi, strict=True)))


def _certified_facts(certificate: Certificate) -> Iterator[tuple[str, ModelFacts]]:
    """Yield the figures in a certificate, each with the name of its source."""
    if certificate.evaluation is not None:
        yield "the evaluation", certificate.evaluation.facts
    if certificate.audit is not None:
        yield "the audit", certificate.audit.teacher


def _compare_curves(name: str, certified: Mapping[float, float], measured: Mapping[float, float]) -> Finding:
    """Compare two CMI curves, temperature to CMI in nats, where both have a value."""
    # Another release may measure other temperatures; those in common are enough.
    common = sorted(set(certified) & set(measured))
    if not common:
        return Finding("CMI curve again", False, f"{name} has no temperature in common with the new measurement")
    differences = {t: abs(certified[t] - measured[t]) for t in common}
    tolerances = {t: ABSOLUTE_CHANGE + RELATIVE_CHANGE * abs(certified[t]) for t in common}
    worst = max(common, key=lambda t: differences[t] / tolerances[t])
    return Finding(
        "CMI curve again",
        differences[worst] <= tolerances[worst],
        f"compared at {len(common)} temperatures; the largest difference, at T = {worst:.4g}: {measured[worst]:.3g}"
        f" nats, {name} says {certified[worst]:.3g}, {tolerances[worst]:.2g} are tolerated",
    )
