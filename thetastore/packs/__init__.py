"""Packs: files of records, and the index that finds a record by its digest.

* `preamble`  the first 32 bytes of every binary file of a store: what it is, and which features it needs.
* `records`   one object's representation: a head that says everything about it, then its stored bytes.
* `writer`    a pack in the making: records appended while others read them, then a footer, then sealed.
* `reader`    packs read forwards (in the making, or damaged) and backwards (sealed).
* `levels`    which runs of a table to merge.
* `index`     runs: sorted digests and their places, immutable.
* `catalog`   what a store holds at the moment, over all runs, and packs that no run covers yet.
* `upkeep`    what follows a seal: orphans adopted, small packs and runs merged, the index rebuilt.
* `retirement`  packs that go because others hold all that is in them; `retirement_notes`, what says so meanwhile.

The bytes are described in docs/format/pack.md, index.md and store.md.
"""

from __future__ import annotations
