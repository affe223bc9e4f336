"""What goes to the Hub and comes from it: which files, the certificate bound to them, the card."""
