"""The command line: `hf-cmim`, one file a command."""
