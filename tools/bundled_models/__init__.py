"""How the two bundled models were made: their tokenizer, their training, their way into the assets.

    python -m tools.bundled_models.pretrain --help

Promises: public exercises only. Does not: come with the wheel; nothing in `src` imports it.
"""
