"""What a store of weights takes and how fast it is, against its peers, on the same inputs in one run.

    python -m benchmarks.peers --minilm FILE [--peers-python PYTHON] [--only SCENARIO,...]

`scenarios` says what is stored, `contenders` by what, `worker` runs one of them on one scenario in a process of its
own, `document` turns the results into `docs/benchmarks.md`.
"""
