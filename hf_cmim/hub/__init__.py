"""Publishing: the files of a model, the certificate bound to them, its verification, the card, and the Hub."""
