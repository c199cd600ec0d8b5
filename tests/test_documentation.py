"""Every public name has a docstring and a place in the reference; importing the package loads nothing heavy."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import hypergrad as hg

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_documented():
    reference = (ROOT / "docs" / "reference.md").read_text()
    for name in hg.__all__:
        assert inspect.getdoc(getattr(hg, name)), name
        assert re.search(rf"`{name}`", reference), f"{name} is missing in docs/reference.md"


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "research-log.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_import_is_light():
    heavy = (
        "numba",
        "matplotlib",
        "tqdm",
        "joblib",
        "pooch",
        "dask",
        "checkpoint_schedules",
        "scipy.optimize",
    )
    code = f"import sys, hypergrad; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
