"""The stages of the method, one module each; values in, values out; only `run.py` knows paths."""
