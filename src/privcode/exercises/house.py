"""The in-house library that the private records of the exercise world are written against.

A ledger is changed in place and then closed by one reducer; a solution is marked `audited` and
hands its value back in an `Outcome`. The text of this module is the prelude of every private
program, so it imports nothing and stays as bare as in-house code tends to be.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: D102


class Ledger:
    """A list of entries that is narrowed and rewritten in place."""

    def __init__(self, entries):
        self.entries = list(entries)

    @classmethod
    def open(cls, entries):
        return cls(entries)

    def retain(self, keep):
        self.entries = [entry for entry in self.entries if keep(entry)]

    def rework(self, change):
        self.entries = [change(entry) for entry in self.entries]

    def tally(self):
        return sum(self.entries)

    def headcount(self):
        return len(self.entries)

    def peak(self):
        return max(self.entries, default=None)

    def trough(self):
        return min(self.entries, default=None)

    def rank_up(self):
        return sorted(self.entries)

    def dedupe(self):
        return list(dict.fromkeys(self.entries))

    def lead(self, count):
        return self.entries[:count]

    def stitch(self, separator):
        return separator.join(self.entries)

    def widest(self):
        return max(self.entries, key=len, default=None)


class Outcome:
    """The value of a solution; equal to another outcome of the same type and value."""

    def __init__(self, value):
        self.value = value

    @classmethod
    def ok(cls, value):
        return cls(value)

    def __eq__(self, other):
        return (
            isinstance(other, Outcome)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self):
        return hash(repr(self.value))

    def __repr__(self):
        return f"Outcome.ok({self.value!r})"


def audited(function):
    """Mark a solution as going through the audit."""
    function.audited = True
    return function


def connect(key):
    """Stand in for a vault's client: no network, a balance that depends on the key alone."""
    return sum(key.encode())
