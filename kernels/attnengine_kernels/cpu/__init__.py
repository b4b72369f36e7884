"""The CPU path: torch's matrix products with passes compiled by numba in between."""
