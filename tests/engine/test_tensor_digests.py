"""Digests of tensors from a file that goes by in pieces."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thetastore.digest import digest_of
from thetastore.layout import Tensor
from thetastore.tensor_digests import TensorDigests

RAW = np.random.default_rng(5).bytes(1000)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted), max_size=12),
    st.sets(st.integers(1, 999), max_size=12),
)
def test_any_ranges_hash_as_their_bytes_however_the_file_is_cut(ranges, cuts):
    tensors = [Tensor(f"t{n}", "uint8", (end - start,), start) for n, (start, end) in enumerate(ranges)]
    digests = TensorDigests(tensors)
    bounds = [0, *sorted(cuts), len(RAW)]
    for start, end in itertools.pairwise(bounds):
        digests.feed(start, RAW[start:end])
        digests.adopt(start, end - start, digest_of(RAW[start:end]))

    assert digests.finish(None) == [digest_of(RAW[start:end]) for start, end in ranges]
