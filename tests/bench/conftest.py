"""Sensors are told what to say here too."""

from tests.sensors.conftest import nvml

__all__ = ["nvml"]
