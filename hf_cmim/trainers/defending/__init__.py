"""Trainer of the defences that train: a published loss in the place of the cross-entropy."""
