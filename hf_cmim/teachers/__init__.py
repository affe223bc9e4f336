"""Black-box teachers: objects that answer a batch with log-probabilities, and the ledger of their queries."""

from hf_cmim.teachers.angular_deviation import AngularDeviationTeacher as AngularDeviationTeacher
from hf_cmim.teachers.base import AbstractTeacher as AbstractTeacher
from hf_cmim.teachers.cache import cache_answers as cache_answers
from hf_cmim.teachers.channels import ChannelTeacher as ChannelTeacher
from hf_cmim.teachers.channels import fit_class_answers as fit_class_answers
from hf_cmim.teachers.classes import match_classes as match_classes
from hf_cmim.teachers.endpoint import EndpointTeacher as EndpointTeacher
from hf_cmim.teachers.function import FunctionTeacher as FunctionTeacher
from hf_cmim.teachers.ledger import QueryLedger as QueryLedger
from hf_cmim.teachers.model import ModelTeacher as ModelTeacher
from hf_cmim.teachers.nulls import ArgmaxNull as ArgmaxNull
from hf_cmim.teachers.nulls import CentroidNull as CentroidNull
from hf_cmim.teachers.nulls import LabelOnlyTeacher as LabelOnlyTeacher
from hf_cmim.teachers.nulls import hard_log_probs as hard_log_probs
from hf_cmim.teachers.table import TableTeacher as TableTeacher
