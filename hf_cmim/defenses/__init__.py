"""Defences that train, and positive controls: published losses to compare with a hardened classifier.

`DefenseTrainer` trains with any of them. See `base.py` for the conventions.
"""

from hf_cmim.defenses.base import AbstractDefense as AbstractDefense
from hf_cmim.defenses.base import Samples as Samples
from hf_cmim.defenses.nasty_teacher import NastyTeacher as NastyTeacher
