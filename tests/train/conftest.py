"""Puts this folder on the module path: `trial` is both a program and a module."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
