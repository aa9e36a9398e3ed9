"""Public test kit: contracts as test classes that a plug-in's tests subclass. Needs pytest."""

from __future__ import annotations

from thetastore.testing.backends import BackendConformance, NearBackendConformance
from thetastore.testing.faults import Fault, FaultyBackend, FaultyRequests, MemoryRequests
from thetastore.testing.rounds import Rounds

__all__ = [
    "BackendConformance",
    "Fault",
    "FaultyBackend",
    "FaultyRequests",
    "MemoryRequests",
    "NearBackendConformance",
    "Rounds",
]
