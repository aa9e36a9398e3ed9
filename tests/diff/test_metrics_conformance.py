"""Our own metrics keep the contract that others' have to."""

from __future__ import annotations

from thetastore.statistics.histogram import Histogram
from thetastore.statistics.rows import Rows
from thetastore.statistics.spectrum import Sketch, Spectrum
from thetastore.testing.metrics import MetricConformance


class TestHistogram(MetricConformance):
    make = Histogram.of
    dtypes = ("float32", "int8", "bool")


class TestRows(MetricConformance):
    make = Rows.of
    dtypes = ("float32", "int8", "bool")


class TestSketch(MetricConformance):
    make = Sketch.of


class TestSpectrum(MetricConformance):
    make = Spectrum.of
