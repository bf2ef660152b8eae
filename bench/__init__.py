"""The benchmark: what Passline costs and how fast it is, seen from outside, beside what one would use instead.

`make bench`, or `python -m bench --list`. How to write a case is in bench/README.md, what each figure means in
docs/benchmarks.md.
"""
