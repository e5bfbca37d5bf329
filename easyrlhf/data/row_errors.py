"""The two ways a row can be wrong: its structure (stops the run) or its content (dropped)."""

from easyrlhf.errors import InputError


class StructuralFault(InputError):
    """A row that cannot be read as its format says: not JSON, a missing key, a wrong type."""


class ContentFault(Exception):
    """A readable row that teaches nothing, such as one with an empty completion.

    reason  short text under which such rows are counted
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
