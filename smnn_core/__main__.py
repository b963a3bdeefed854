"""`python -m smnn_core` prints what this installation can do."""

from . import show_config

show_config()
