"""The hardening objective and its memory: specification, loss, bank, collapse detector. It needs only torch."""
