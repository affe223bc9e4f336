"""The hardening trainer: settings, loss, collapse guard, summary."""
