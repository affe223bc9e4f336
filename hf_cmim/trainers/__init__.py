"""Trainers on top of `transformers.Trainer`."""
