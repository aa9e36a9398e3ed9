"""A store checked and repaired: the engine of `git theta fsck`, `thetastore verify` and `thetastore mend`.

* `budget`  how much of a check is done now, and where the last one stopped.
* `check`   what is wrong and what is lost, pack by pack, by any executor.
* `repair`  damage set aside, and lost objects brought back from stores and files.
* `report`  both in words and as values.
"""

from __future__ import annotations
