"""Distillation attacks: the published methods we know that train a student on a black-box teacher's answers.

Every loss is an attack. Answer transforms and protocols modify it, and `Composition` combines the parts. A transform
or protocol without a loss is combined with `KD()`. See `base.py` for the conventions.
"""

from hf_cmim.attacks.averager import Averager as Averager
from hf_cmim.attacks.base import AttackPart as AttackPart
from hf_cmim.attacks.base import Relative as Relative
from hf_cmim.attacks.beyond_label_kd import BeyondLabelKD as BeyondLabelKD
from hf_cmim.attacks.bkl import BKL as BKL
from hf_cmim.attacks.class_centroid import ClassCentroid as ClassCentroid
from hf_cmim.attacks.composition import Composition as Composition
from hf_cmim.attacks.ctkd import CTKD as CTKD
from hf_cmim.attacks.dist import DIST as DIST
from hf_cmim.attacks.dkd import DKD as DKD
from hf_cmim.attacks.dot import DOT as DOT
from hf_cmim.attacks.function_matching import FunctionMatching as FunctionMatching
from hf_cmim.attacks.gdkd import GDKD as GDKD
from hf_cmim.attacks.gkl import GKL as GKL
from hf_cmim.attacks.htc import HTC as HTC
from hf_cmim.attacks.ikl import IKL as IKL
from hf_cmim.attacks.jsd import JSD as JSD
from hf_cmim.attacks.kd import KD as KD
from hf_cmim.attacks.knockoff import Knockoff as Knockoff
from hf_cmim.attacks.label_only import LabelOnly as LabelOnly
from hf_cmim.attacks.logit_mse import LogitMSE as LogitMSE
from hf_cmim.attacks.logit_standardization import LogitStandardization as LogitStandardization
from hf_cmim.attacks.markov_kd import MarkovKD as MarkovKD
from hf_cmim.attacks.mixup_queries import MixupQueries as MixupQueries
from hf_cmim.attacks.mlkd import MLKD as MLKD
from hf_cmim.attacks.nkd import NKD as NKD
from hf_cmim.attacks.normkd import NormKD as NormKD
from hf_cmim.attacks.partial_bayes import PartialBayes as PartialBayes
from hf_cmim.attacks.perturbed_queries import PerturbedQueries as PerturbedQueries
from hf_cmim.attacks.pkt import PKT as PKT
from hf_cmim.attacks.pld import PLD as PLD
from hf_cmim.attacks.repaired_answers import RepairedAnswers as RepairedAnswers
from hf_cmim.attacks.restoration import Restoration as Restoration
from hf_cmim.attacks.rkd import RKD as RKD
from hf_cmim.attacks.rld import RLD as RLD
from hf_cmim.attacks.shifted_views import ShiftedViews as ShiftedViews
from hf_cmim.attacks.skd import SKD as SKD
from hf_cmim.attacks.skeptical import Skeptical as Skeptical
from hf_cmim.attacks.sp import SP as SP
from hf_cmim.attacks.teacher_free import CrossEntropy as CrossEntropy
from hf_cmim.attacks.teacher_free import LabelSmoothing as LabelSmoothing
from hf_cmim.attacks.teacher_free import TeacherFreeKD as TeacherFreeKD
from hf_cmim.attacks.ttm import TTM as TTM
from hf_cmim.attacks.ttm import WTTM as WTTM
from hf_cmim.attacks.wkd import WKD as WKD
from hf_cmim.attacks.wsld import WSLD as WSLD

ATTACKS: dict[str, type[AttackPart]] = {
    # Losses
    "beyond-label-kd": BeyondLabelKD,
    "bkl": BKL,
    "ctkd": CTKD,
    "dist": DIST,
    "dkd": DKD,
    "function-matching": FunctionMatching,
    "gdkd": GDKD,
    "gkl": GKL,
    "htc": HTC,
    "ikl": IKL,
    "jsd": JSD,
    "kd": KD,
    "knockoff": Knockoff,
    "label-only": LabelOnly,
    "logit-mse": LogitMSE,
    "logit-standardization": LogitStandardization,
    "mlkd": MLKD,
    "nkd": NKD,
    "norm-kd": NormKD,
    "pkt": PKT,
    "pld": PLD,
    "rkd": RKD,
    "rld": RLD,
    "skd": SKD,
    "sp": SP,
    "ttm": TTM,
    "wkd": WKD,
    "wsld": WSLD,
    "wttm": WTTM,
    # Answer transforms
    "averager": Averager,
    "class-centroid": ClassCentroid,
    "markov-kd": MarkovKD,
    "partial-bayes": PartialBayes,
    "repaired-answers": RepairedAnswers,
    "restoration": Restoration,
    # Protocols
    "dot": DOT,
    "mixup-queries": MixupQueries,
    "perturbed-queries": PerturbedQueries,
    "shifted-views": ShiftedViews,
    "skeptical": Skeptical,
    # References: arms without a teacher
    "cross-entropy": CrossEntropy,
    "label-smoothing": LabelSmoothing,
    "teacher-free-kd": TeacherFreeKD,
}
"""All parts by name. The references at the end are not attacks: they never read an answer."""
