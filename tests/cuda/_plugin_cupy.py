"""A plugin of pytest: the CuPy of `_fake_cupy`, for a whole session."""

import _fake_cupy

_fake_cupy.install()
