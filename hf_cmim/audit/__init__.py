"""The audit: plan which students to train, train many at once, keep each one, and judge."""
