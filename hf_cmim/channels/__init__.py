"""Output channels: changes of a classifier's answers on their way to the reader, such as rounding or top-k."""

from hf_cmim.channels.argmax import Argmax as Argmax
from hf_cmim.channels.base import FLOOR as FLOOR
from hf_cmim.channels.base import AbstractChannel as AbstractChannel
from hf_cmim.channels.base import label_log_probs as label_log_probs
from hf_cmim.channels.base import normalized as normalized
from hf_cmim.channels.base import raise_zeros as raise_zeros
from hf_cmim.channels.class_answers import ClassAnswers as ClassAnswers
from hf_cmim.channels.confidence_temperature import ConfidenceTemperature as ConfidenceTemperature
from hf_cmim.channels.fitted import AbstractFittedChannel as AbstractFittedChannel
from hf_cmim.channels.linear_map import LinearMap as LinearMap
from hf_cmim.channels.model_guard_s import ModelGuardS as ModelGuardS
from hf_cmim.channels.model_guard_w import ModelGuardW as ModelGuardW
from hf_cmim.channels.reverse_sigmoid import ReverseSigmoid as ReverseSigmoid
from hf_cmim.channels.rounded import Rounded as Rounded
from hf_cmim.channels.sharpened import Sharpened as Sharpened
from hf_cmim.channels.top_k import TopK as TopK
