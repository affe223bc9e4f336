"""An audit report as an HTML page, as a section of a model card and as a table for the terminal."""
