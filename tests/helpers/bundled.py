"""Where the bundled models lie."""

from pathlib import Path

import privcode

ASSETS = Path(privcode.__file__).parent / "assets"
