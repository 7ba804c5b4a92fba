"""How fast the pool is, beside what a program would use instead.

`python -m benchmarks` measures the pool against `mcp.Client`, a bare multiplexer and Trio's own primitives;
`python -m benchmarks.peers` against other client layers, each in an environment of its own. Only ratios between
contenders of one run mean anything: every round gives each of them its turn, and what is told is the median over the
rounds of the ratio within a round. See `docs/benchmarks.md`.
"""
