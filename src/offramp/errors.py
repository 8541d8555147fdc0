"""The one error that users cause and can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: says what is wrong, what was got, and what to do. The command line prints it and exits with 2."""
