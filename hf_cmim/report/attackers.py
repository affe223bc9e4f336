"""Attackers, by the data that they have."""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from hf_cmim.errors import HfCmimError

Origin = Literal["unknown", "training", "own", "own-unlabelled", "out-of-domain"]
"""Origin of an attacker's samples.

"training" are samples that the teacher was trained on, "own" others of the same kind with labels, "own-unlabelled"
others without labels. "out-of-domain" are samples of another kind, such as another task's, without labels of this
task. "unknown" are samples of which nobody said if the teacher was trained on them.
"""


@dataclass(frozen=True)
class Attacker:
    """An attacker, by the samples that it asks about and learns from.

    Args:
        origin: origin of the samples; an audit cannot find it out, so its user says it.
        share: share of the samples that the attacker has, in (0, 1].

    Raises:
        HfCmimError: an unknown origin, or a share outside (0, 1].

    >>> Attacker.parse("own:0.25")
    Attacker(origin='own', share=0.25)
    """

    origin: Origin = "unknown"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Check origin and share."""
        if self.origin not in get_args(Origin):
            raise HfCmimError(
                f"Unknown attacker {self.origin!r}: it has no samples. Use one of {', '.join(get_args(Origin)[1:])},"
                " with a share of them if you like, for instance own:0.25."
            )
        if not 0 < self.share <= 1:
            raise HfCmimError(
                f"Expected a share of the samples in (0, 1], got {self.share}: the attacker would have no sample, or"
                " more than there are. A quarter is 0.25."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the attacker in a text such as own:0.25.

        Raises:
            HfCmimError: a text in another form.
        """
        origin, _, share = text.partition(":")
        try:
            fraction = float(share or 1)
        except ValueError as error:
            raise HfCmimError(
                f"Expected an attacker such as own or own:0.25, got {text!r}: {share!r} is no share of the samples."
            ) from error
        # The constructor refuses any other origin.
        return cls(cast(Origin, origin), fraction)

    @property
    def name(self) -> str:
        """Name, which `parse` reads."""
        return self.origin if self.share == 1 else f"{self.origin}:{self.share:g}"

    @property
    def is_labelled(self) -> bool:
        """True if the attacker has labels of its samples."""
        return self.origin not in ("own-unlabelled", "out-of-domain")

    @property
    def has_own_samples(self) -> bool:
        """True if the attacker's samples are not those of the teacher."""
        return self.origin in ("own", "own-unlabelled", "out-of-domain")


UNKNOWN_ATTACKER = Attacker()
"""The attacker of whose samples nobody said where they are from."""
