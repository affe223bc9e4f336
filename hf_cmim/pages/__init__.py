"""An audit's report as a page, as a model card's section, and as a table for the terminal."""
