"""Every fault at every place, counted: what stands in docs/reliability.md.

* `worlds`       small stores, and what is done to them: commit, push, fetch, repack, collect, mend.
* `injecting`    crashes and refusals at every call; faults of a network at every request.
* `damage`       every file cut at every length, every bit flipped.
* `crowds`       processes that write at once, beside a collector, one of them stopped for longer than any grace.
* `memory`       the memory that hostile input takes.
* `document`     the page.

`python -m benchmarks.reliability` does all of it in some ten minutes; `--every 50` a sample.
"""
