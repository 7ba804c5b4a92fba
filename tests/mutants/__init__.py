"""Break the core one line at a time, and see whether a quick test fails: `python -m tests.mutants`."""
