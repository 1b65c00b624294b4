"""The procedural exercise world behind the bundled models and the demo.

Promises: public documents, private records, public prompts and tasks that are functions of a
seed alone, and an answer key for every task. Does not: train or run a model.
"""
