"""What concerns any trainer: checkpoints, labels, checks, publishing."""
