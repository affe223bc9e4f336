"""The distillation trainer: settings, queries, attack, evaluation."""
