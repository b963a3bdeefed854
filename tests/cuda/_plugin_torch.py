"""A plugin of pytest: the CuPy of `_fake_cupy` and CPU tensors that pass for CUDA tensors, for a whole session."""

import _fake_cupy
import pytest
from _torch_on_fake import pretend

_fake_cupy.install()
pretend(pytest.MonkeyPatch())
