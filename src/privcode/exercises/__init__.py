"""The procedural exercise world behind the bundled models and the demo.

Promises:
- Public documents, private records, public prompts and tasks are functions of a seed alone.
- There is an answer key for every task.

Does not: train or run a model.
"""
