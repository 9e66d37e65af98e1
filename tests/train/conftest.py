"""`trial` is a program and a module: the folder is put where modules are looked for."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
