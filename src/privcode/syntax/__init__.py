"""Which tokens are the structure of code, for the loss that holds them (PrivSA)."""
