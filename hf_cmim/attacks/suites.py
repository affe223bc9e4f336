"""Attack suites: named, frozen lists of the attacks that an audit tries.

A released suite never changes; a new one gets a new name. Each family has at least as many settings as the label-only
null teacher has confidences (`NULL_CONFIDENCES`), so attacks are tuned as hard as the references. Suites contain fixed
temperatures and temperatures relative to the teacher's logit scale, also below 1: a concentrated teacher has small
logits, which a fixed T = 4 over-smooths.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hf_cmim.attacks.averager import Averager
from hf_cmim.attacks.base import AttackPart, Relative, Temperature
from hf_cmim.attacks.beyond_label_kd import BeyondLabelKD
from hf_cmim.attacks.bkl import BKL
from hf_cmim.attacks.class_centroid import ClassCentroid
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.ctkd import CTKD
from hf_cmim.attacks.dist import DIST
from hf_cmim.attacks.dkd import DKD
from hf_cmim.attacks.dot import DOT
from hf_cmim.attacks.function_matching import FunctionMatching
from hf_cmim.attacks.gdkd import GDKD
from hf_cmim.attacks.gkl import GKL
from hf_cmim.attacks.htc import HTC
from hf_cmim.attacks.ikl import IKL
from hf_cmim.attacks.jsd import JSD
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.knockoff import Knockoff
from hf_cmim.attacks.label_only import LabelOnly
from hf_cmim.attacks.logit_mse import LogitMSE
from hf_cmim.attacks.logit_standardization import LogitStandardization
from hf_cmim.attacks.markov_kd import MarkovKD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.mlkd import MLKD
from hf_cmim.attacks.nkd import NKD
from hf_cmim.attacks.normkd import NormKD
from hf_cmim.attacks.partial_bayes import PartialBayes
from hf_cmim.attacks.perturbed_queries import PerturbedQueries
from hf_cmim.attacks.pkt import PKT
from hf_cmim.attacks.pld import PLD
from hf_cmim.attacks.repaired_answers import RepairedAnswers
from hf_cmim.attacks.restoration import Restoration
from hf_cmim.attacks.rkd import RKD
from hf_cmim.attacks.rld import RLD
from hf_cmim.attacks.shifted_views import ShiftedViews
from hf_cmim.attacks.skd import SKD
from hf_cmim.attacks.skeptical import Skeptical
from hf_cmim.attacks.sp import SP
from hf_cmim.attacks.ttm import TTM, WTTM
from hf_cmim.attacks.wkd import WKD
from hf_cmim.attacks.wsld import WSLD
from hf_cmim.channels import ReverseSigmoid, Rounded

NULL_CONFIDENCES = (0.3, 0.5, 0.7, 0.9, 0.99)
"""Confidences of the label-only null teacher; validation data choose one."""
TEMPERATURES: tuple[Temperature, ...] = (1.0, 4.0, Relative(0.5), Relative(1.0), Relative(2.0))


@dataclass(frozen=True)
class SuiteEntry:
    """One setting of a family of attacks.

    Attributes:
        family: name of the family; screening keeps the family's best setting on validation data.
        attack: composition with this setting. Trainers copy it, so the suite never changes.
    """

    family: str
    attack: Composition


@dataclass(frozen=True)
class Suite:
    """A named list of attacks.

    Attributes:
        name: name of the suite, with its version.
        entries: all settings of all families.
    """

    name: str
    entries: tuple[SuiteEntry, ...]

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families, in the order of their entries."""
        return tuple(dict.fromkeys(entry.family for entry in self.entries))

    def of(self, family: str) -> tuple[Composition, ...]:
        """Return the settings of a family."""
        return tuple(entry.attack for entry in self.entries if entry.family == family)

    def subset(self, families: Sequence[str]) -> "Suite":
        """Return a suite with all settings of the requested families; its name states that it is a subset."""
        entries = tuple(entry for entry in self.entries if entry.family in families)
        num_families = len({entry.family for entry in entries})
        if num_families == len(self.families):
            return self
        return Suite(f"{self.name}, {num_families} of {len(self.families)} families", entries)


def _family(name: str, settings: Iterable[AttackPart | Sequence[AttackPart]]) -> Iterator[SuiteEntry]:
    for parts in settings:
        yield SuiteEntry(name, Composition(*([parts] if isinstance(parts, AttackPart) else parts)))


def _plain_losses() -> Iterator[SuiteEntry]:
    yield from _family(
        "label-only", (LabelOnly(ce_weight=1 - hard, hard_weight=hard) for hard in (1, 0.9, 0.75, 0.5, 0.25))
    )
    yield from _family("kd", (KD(temperature=t) for t in TEMPERATURES))
    yield from _family("htc", (HTC(temperature=t) for t in (20.0, 50.0, Relative(4.0), Relative(8.0), Relative(16.0))))
    yield from _family(
        "logit-mse",
        (
            LogitMSE(mse_weight=weight, normalized=normalized)
            for weight, normalized in ((0.1, False), (1.0, False), (0.3, True), (1.0, True), (3.0, True))
        ),
    )
    yield from _family(
        "knockoff",
        [
            Knockoff(),
            (Knockoff(), MixupQueries()),
            *((Knockoff(), PerturbedQueries(scale=s)) for s in (0.1, 0.25, 0.5)),
        ],
    )
    yield from _family("function-matching", ((FunctionMatching(temperature=t), MixupQueries()) for t in TEMPERATURES))


def _losses_of_parts_and_scales() -> Iterator[SuiteEntry]:
    yield from _family(
        "dkd",
        (
            DKD(temperature=t, beta=beta)
            for t, beta in ((4.0, 2.0), (4.0, 8.0), (Relative(0.5), 2.0), (Relative(1.0), 2.0), (Relative(1.0), 8.0))
        ),
    )
    yield from _family(
        "nkd",
        (
            NKD(temperature=t, gamma=g)
            for t, g in ((1.0, 1.5), (3.0, 3.5), (Relative(0.5), 1.5), (Relative(1.0), 1.5), (Relative(1.0), 3.5))
        ),
    )
    yield from _family("dist", (DIST(temperature=t) for t in TEMPERATURES))
    yield from _family(
        "ttm", (TTM(gamma=g, ttm_weight=w) for g, w in ((0.1, 45.0), (0.3, 5.0), (0.5, 2.0), (1.0, 1.0), (2.0, 1.0)))
    )
    yield from _family(
        "wttm", (WTTM(gamma=g, wttm_weight=w) for g, w in ((0.1, 5.0), (0.2, 4.0), (0.5, 2.0), (1.0, 1.0), (2.0, 1.0)))
    )
    yield from _family(
        "logit-standardization",
        (
            LogitStandardization(base=base)
            for base in (
                KD(temperature=2.0, kd_weight=9.0),
                KD(temperature=1.0, kd_weight=3.0),
                KD(temperature=0.5, kd_weight=1.0),
                DKD(temperature=2.0),
                MLKD(temperatures=(1.0, 2.0, 3.0), ce_weight=1.0, kd_weight=0.1),
            )
        ),
    )
    yield from _family("norm-kd", (NormKD(scale=scale) for scale in (0.25, 0.5, 1.0, 2.0, 4.0)))
    yield from _family(
        "mlkd",
        [
            MLKD(),
            (MLKD(), ShiftedViews()),
            # Masked samples learn only from the cross-entropy, which needs more weight if the teacher is mostly
            # certain.
            *(
                MLKD(
                    temperatures=temperatures, ce_weight=1.0, kd_weight=kd, class_weight=kd / 10, batch_weight=kd / 10
                )
                for temperatures, kd in (
                    ((2.0, 3.0, 4.0, 5.0, 6.0), 0.02),
                    ((2.0, 3.0, 4.0, 5.0, 6.0), 0.1),
                    ((Relative(0.5), Relative(1.0), Relative(2.0)), 0.1),
                )
            ),
        ],
    )
    yield from _family(
        "ctkd",
        (CTKD(lowest=low, span=span) for low, span in ((1.0, 20.0), (0.5, 4.0), (0.25, 2.0), (0.1, 1.0), (1.0, 4.0))),
    )


def _other_divergences_and_relations() -> Iterator[SuiteEntry]:
    yield from _family("wsld", (WSLD(temperature=t) for t in TEMPERATURES))
    yield from _family("rld", (RLD(temperature=t) for t in TEMPERATURES))
    yield from _family("ikl", (IKL(temperature=t) for t in TEMPERATURES))
    yield from _family("wkd", (WKD(temperature=t) for t in TEMPERATURES))
    yield from _family(
        "jsd",
        (
            JSD(temperature=t, beta=b)
            for t, b in ((1.0, 0.1), (1.0, 0.5), (1.0, 0.9), (Relative(0.5), 0.5), (Relative(0.5), 1.0))
        ),
    )
    yield from _family("rkd", (RKD(distance_weight=2.5 * f, angle_weight=5 * f) for f in (0.03, 0.1, 0.3, 1.0, 2.0)))
    yield from _family("pkt", (PKT(pkt_weight=weight) for weight in (0.5, 1.5, 5.0, 10.0, 20.0)))
    yield from _family("sp", (SP(sp_weight=weight) for weight in (0.03, 0.1, 0.3, 1.0, 2.0)))
    yield from _family("skd", (SKD(temperature=t) for t in TEMPERATURES))


def _newer_losses() -> Iterator[SuiteEntry]:
    yield from _family(
        "gdkd",
        (
            GDKD(temperature=t, top=top)
            for t, top in ((4.0, 2), (4.0, 5), (Relative(0.5), 2), (Relative(1.0), 2), (Relative(1.0), 5))
        ),
    )


def _transforms_and_protocols() -> Iterator[SuiteEntry]:
    cold = (0.5, 1.0, 2.0, 4.0, 8.0)
    yield from _family("averager", ((KD(temperature=t), Averager(temperature=t)) for t in cold))
    yield from _family("class-centroid", ((KD(temperature=t), ClassCentroid()) for t in TEMPERATURES))
    yield from _family(
        "markov-kd",
        (
            (KD(temperature=t), MarkovKD(temperature=t, rank=rank, learning_rate_factor=factor))
            for t, rank, factor in (
                (4.0, 3, 0.01),
                (4.0, 3, 1.0),
                (4.0, 5, 1.0),
                (1.0, 3, 1.0),
                (Relative(1.0), 3, 1.0),
            )
        ),
    )
    yield from _family("skeptical", ((KD(temperature=t), Skeptical()) for t in TEMPERATURES))
    yield from _family(
        "dot",
        (
            (KD(temperature=t), DOT(delta=d, learning_rate=rate))
            for t, d, rate in (
                (4.0, 0.075, 0.05),
                (4.0, 0.09, 0.1),
                (Relative(1.0), 0.075, 0.02),
                (Relative(1.0), 0.075, 0.05),
                (Relative(1.0), 0.075, 0.1),
            )
        ),
    )
    yield from _family(
        "perturbed-queries",
        (
            (KD(temperature=Relative(1.0)), PerturbedQueries(scale=scale, queries_per_sample=n))
            for scale, n in ((0.1, 1), (0.25, 1), (0.5, 1), (1.0, 1), (0.25, 3))
        ),
    )
    yield from _family(
        "recovery",
        [
            *((KD(temperature=t), PartialBayes(perturbation=Rounded(decimals=2))) for t in (1.0, 4.0)),
            (KD(), PartialBayes(perturbation=ReverseSigmoid())),
            (KD(), Restoration(perturbation=Rounded(decimals=2))),
            (KD(), Restoration(perturbation=ReverseSigmoid())),
        ],
    )


def _adaptive_attackers() -> Iterator[SuiteEntry]:
    yield from _family(
        "beyond-label-kd",
        (
            BeyondLabelKD(temperature=t, emphasis=emphasis, measured_at=measured_at)
            for t, emphasis, measured_at in (
                (4.0, 0.5, 4.0),
                (4.0, 1.0, 4.0),
                (1.0, 0.5, 1.0),
                (Relative(1.0), 0.5, 4.0),
                (Relative(1.0), 1.0, 1.0),
            )
        ),
    )
    yield from _family(
        "repaired-answers",
        [
            *((KD(temperature=t), RepairedAnswers()) for t in (1.0, 4.0, Relative(1.0))),
            (KD(), RepairedAnswers(rule="below-chance")),
            (KD(), RepairedAnswers(repair="swap")),
        ],
    )


def _newest_losses() -> Iterator[SuiteEntry]:
    yield from _family(
        "bkl",
        (
            BKL(temperature=t, beta=beta)
            for t, beta in ((1.0, 0.2), (2.0, 0.2), (4.0, 0.2), (Relative(0.5), 0.2), (Relative(0.5), 0.6))
        ),
    )
    yield from _family("pld", (PLD(temperature=t) for t in TEMPERATURES))
    yield from _family(
        "gkl",
        (
            GKL(temperature=t, measured_at=measured_at, gamma=gamma, alpha=alpha)
            for t, measured_at, gamma, alpha in (
                (4.0, 4.0, 0.05, 16.0),
                (4.0, 4.0, 0.2, 4.0),
                (1.0, 1.0, 0.6, 0.5),
                (Relative(0.5), 4.0, 0.2, 4.0),
                (Relative(1.0), 4.0, 0.05, 16.0),
            )
        ),
    )


# The order is part of a suite: reports name its settings by a digest of this list.
STANDARD_V1 = Suite(
    "standard-v1",
    (
        *_plain_losses(),
        *_losses_of_parts_and_scales(),
        *_other_divergences_and_relations(),
        *_transforms_and_protocols(),
    ),
)
"""Frozen, with other losses in DIST, DOT, PKT, Skeptical, WKD and standardised MLKD than today's.

These losses differed from their sources and were mended. Reports and certificates that name this suite still verify;
audits refuse it, because its losses no longer exist.
"""

STANDARD_V2 = Suite("standard-v2", (*STANDARD_V1.entries, *_newer_losses()))
"""All families we knew when it was frozen; `OPT_IN` has newer ones. Frozen."""

OPT_IN: tuple[SuiteEntry, ...] = (*_adaptive_attackers(), *_newest_losses())
"""Families that are newer than the frozen suites, which an audit tries if its user asks for them. Not frozen.

Suite("standard-v2 + own", (*STANDARD_V2.entries, *OPT_IN)) tries them with all others.
"""

QUICK_V2 = Suite(
    "quick-v2",
    tuple(
        SuiteEntry(family, Composition(*parts))
        for family, parts in (
            ("kd", [KD(temperature=Relative(1.0))]),
            ("dkd", [DKD(temperature=Relative(1.0), beta=2.0)]),
            ("logit-standardization", [LogitStandardization()]),
            ("dist", [DIST()]),
            ("markov-kd", [KD(), MarkovKD()]),
        )
    ),
)
"""Five attacks for a first impression, too few for a verdict. Frozen."""

SUITES = {suite.name: suite for suite in (QUICK_V2, STANDARD_V2)}
"""Suites that audits try, by name. A report names a suite only if all its attacks were tried."""

QUICK_V1 = Suite("quick-v1", QUICK_V2.entries)
"""Settings of `QUICK_V2`, with another loss in DIST; see `STANDARD_V1`. Frozen."""

RELEASED_SUITES = {suite.name: suite for suite in (QUICK_V1, STANDARD_V1)} | SUITES
"""All suites that a report may name, by name."""


def released_suite(name: str) -> Suite | None:
    """Return the suite that a name means, used whole or in part ("quick-v2, 2 of 5 families"); None for another."""
    return RELEASED_SUITES.get(name.partition(", ")[0])
