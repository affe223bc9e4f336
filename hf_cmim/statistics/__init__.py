"""The audit's statistics: how sure a verdict is, and when to look again; numbers in, verdicts out.

Two kinds of claim, each wrong at most `error_rate` of the time, over all looks together:

- "Every attack is below the margin" is an intersection-union claim: each attack has a one-sided upper bound of its
  own, and nothing is corrected for the number of attacks.
- "Some attack leaks" is a union claim: lower bounds hold for all attacks together, by a max-t correction.

A gain is the mean of n students of an attack minus the mean of m students of a baseline, in Welch's form. Arms of one
seed share initialisation and data order, and no use is made of that: where it makes accuracies rise and fall together,
a difference is more precise than its standard error says, and the bounds are conservative. Were the correlation
negative, they would not be.
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
