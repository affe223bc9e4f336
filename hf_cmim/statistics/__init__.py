"""The audit's statistics: from accuracies to verdicts, and the planned looks at which a verdict is tried.

An audit can make two kinds of claim. Each is wrong with probability at most `error_rate`, over all looks together:

- "Every attack is below the margin" is an intersection-union claim: each attack has its own one-sided upper bound,
  without a correction for the number of attacks.
- "Some attack leaks" is a union claim: the lower bounds hold for all attacks together, by a max-t correction.

A gain is the mean of n students of an attack minus the mean of m students of a baseline, in Welch's form. Arms of one
seed share initialisation and data order, but the statistics do not use this. A positive correlation makes the bounds
conservative: a difference is then more precise than its standard error. A negative one would make them too narrow.
"""

from hf_cmim.statistics.design import Design, reachable_margin
from hf_cmim.statistics.estimates import arm_means, paired_interval
from hf_cmim.statistics.verdicts import Baselines, Comparison, Decision, Verdict, decide, replay, verdict_of

__all__ = [
    "Baselines",
    "Comparison",
    "Decision",
    "Design",
    "Verdict",
    "arm_means",
    "decide",
    "paired_interval",
    "reachable_margin",
    "replay",
    "verdict_of",
]
