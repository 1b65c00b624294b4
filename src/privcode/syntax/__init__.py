"""Which tokens are the structure of code, and the loss that holds them (PrivSA)."""
