"""The operator behind every form of the objective: all tempered divergences at once, values and gradient together."""
