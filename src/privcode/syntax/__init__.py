"""Which tokens are the structure of code: the syntax-aware loss (PrivSA) acts on these."""

GAP = "<FILL_ME>"
"""Stands in a prompt where code is missing. Code Llama's tokenizer spells it so."""
