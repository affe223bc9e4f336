"""The hardening objective and what it remembers: specification, loss, bank, collapse detector. It needs only torch."""
