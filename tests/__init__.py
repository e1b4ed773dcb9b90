"""Tests of danqing: unit, property, parity, distributed, e2e and guards."""
