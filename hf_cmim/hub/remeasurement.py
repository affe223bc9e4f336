"""Measure a certified model again, and compare."""

from collections.abc import Collection, Iterator, Mapping

from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.verification import Finding
from hf_cmim.measurement import Measurement
from hf_cmim.report import ModelFacts

SAMPLES_APART = 3
"""Samples that another device or release may classify otherwise; ours."""
RELATIVE_CHANGE = 0.02
ABSOLUTE_CHANGE = 1e-5
"""Change of a CMI, relative or in nats, that another device or release may bring; ours."""


def compare_measurement(
    certificate: Certificate, measured: Measurement, labels_fingerprints: Collection[str]
) -> Iterator[Finding]:
    """Yield whether accuracy and CMI curve are those that the certificate says of the same data.

    Args:
        certificate: with an evaluation or an audit.
        measured: of the same weights now.
        labels_fingerprints: of the labels, numbered as the model and as the data number classes: an audit goes by its
            students' order, and neither accuracy nor CMI depends on it.
    """
    known = {name: facts for name, facts in _measured_before(certificate)
             if facts.labels_fingerprint in labels_fingerprints}  # fmt: skip
    if not known:
        yield Finding(
            "measured again",
            False,
            f"these {measured.num_samples:,} labels are none of those that the certificate speaks of: give the data"
            " set, the split and the limits that it was measured on",
        )
    for name, facts in known.items():
        apart = abs(facts.accuracy - measured.accuracy) * measured.num_samples
        yield Finding(
            "accuracy again",
            apart <= SAMPLES_APART,
            f"{100 * measured.accuracy:.2f} %, {name} says {100 * facts.accuracy:.2f} %: {apart:.0f} of"
            f" {measured.num_samples:,} samples apart, {SAMPLES_APART} may be",
        )
        yield _compare_curves(name, dict(facts.curve), dict(zip(measured.temperatures, measured.cmi, strict=True)))


def _measured_before(certificate: Certificate) -> Iterator[tuple[str, ModelFacts]]:
    """Yield by name what was measured."""
    if certificate.evaluation is not None:
        yield "the evaluation", certificate.evaluation.facts
    if certificate.audit is not None:
        yield "the audit", certificate.audit.teacher


def _compare_curves(name: str, known: Mapping[float, float], found: Mapping[float, float]) -> Finding:
    common = sorted(set(known) & set(found))
    if not common:
        return Finding("CMI curve again", False, f"{name} names no temperature at which it was measured again")
    worst = max(common, key=lambda t: abs(known[t] - found[t]) / (ABSOLUTE_CHANGE + RELATIVE_CHANGE * abs(known[t])))
    allowed = ABSOLUTE_CHANGE + RELATIVE_CHANGE * abs(known[worst])
    return Finding(
        "CMI curve again",
        abs(known[worst] - found[worst]) <= allowed,
        f"at {len(common)} temperatures; the farthest, T = {worst:.4g}: {found[worst]:.3g} nats, {name} says"
        f" {known[worst]:.3g}, {allowed:.2g} apart may be",
    )
