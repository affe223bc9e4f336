"""The engine of an audit: trains many students of one architecture at once."""
