"""Let the environment of the Python that runs this see another's packages, after its own: share.py OTHER"""

from __future__ import annotations

import site
import sys
from pathlib import Path

other = Path(sys.argv[1]).resolve()
inside = Path(site.getsitepackages()[0]).relative_to(sys.prefix)
Path(site.getsitepackages()[0], "zz_shared.pth").write_text(f"import site; site.addsitedir({str(other / inside)!r})\n")
