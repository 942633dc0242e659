"""Settings that all tests share, made before anything heavy is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores, and workers of our own beside
os.environ.setdefault("ISDH_DEVICE", "cpu")
