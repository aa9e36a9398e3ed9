"""Public test kit: contracts as test classes that a plug-in's tests subclass. Needs pytest."""

from __future__ import annotations

from thetastore.testing.backends import BackendConformance, NearBackendConformance

__all__ = ["BackendConformance", "NearBackendConformance"]
