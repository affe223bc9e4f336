"""The command line `hf-cmim`: one module per command."""
