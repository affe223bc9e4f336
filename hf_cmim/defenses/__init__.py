"""Defences that train, and positive controls: published losses to compare with a hardened classifier.

`DefenseTrainer` trains with any of them. See `base.py` for the conventions.
"""

from hf_cmim.defenses.base import AbstractDefense as AbstractDefense
from hf_cmim.defenses.base import Samples as Samples
from hf_cmim.defenses.maximized_cmi import MaximizedCMI as MaximizedCMI
from hf_cmim.defenses.nasty_teacher import NastyTeacher as NastyTeacher
from hf_cmim.defenses.squared_error import SquaredError as SquaredError
