"""Which tokens are the structure of code: the syntax-aware loss (PrivSA) acts on these."""
