"""Forms in which the CMI enters the loss, one a file; each form's state is part of the bank and of a checkpoint."""

from hf_cmim.hardening.forms.base import AbstractForm
from hf_cmim.hardening.forms.plain import PlainForm
from hf_cmim.hardening.forms.scaled import ScaledForm
from hf_cmim.hardening.forms.share import ShareForm

FORMS: dict[str, type[AbstractForm]] = {"scaled": ScaledForm, "share": ShareForm, "plain": PlainForm}
"""Forms by the name that `ObjectiveSpec` gives them."""
