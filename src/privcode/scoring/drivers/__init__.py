"""What runs inside the sandbox: modules sent there as text, with the standard library alone.

Each driver runs the solution and its tests in one way. `format.driver` reads its text.
"""
