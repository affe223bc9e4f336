"""Pure tensor functions: information, divergence, calibration, membership. They need only torch."""

from hf_cmim.functional.calibration import CalibrationStatistics as CalibrationStatistics
from hf_cmim.functional.clusters import ClusterStatistics as ClusterStatistics
from hf_cmim.functional.divergence import kl_divergence as kl_divergence
from hf_cmim.functional.divergence import tempered_log_probs as tempered_log_probs
from hf_cmim.functional.information import class_centroids as class_centroids
from hf_cmim.functional.information import cmi_curve as cmi_curve
from hf_cmim.functional.information import conditional_mutual_information as conditional_mutual_information
from hf_cmim.functional.information import normalized_cmi as normalized_cmi
from hf_cmim.functional.information import prediction_entropy as prediction_entropy
from hf_cmim.functional.information import separation as separation
from hf_cmim.functional.information import within_class_variance as within_class_variance
from hf_cmim.functional.information import within_total_ratio as within_total_ratio
from hf_cmim.functional.membership import membership_auc as membership_auc
