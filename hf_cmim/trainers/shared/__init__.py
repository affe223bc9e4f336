"""Parts that every trainer shares: checkpoints, labels, checks, publishing."""
