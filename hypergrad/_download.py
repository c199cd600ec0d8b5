"""Files of public data sets: found in a named folder, the checkout or the user's cache, or downloaded."""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT_DATA = Path(__file__).resolve().parent.parent / "data"


class DatasetError(OSError):
    """A data file is missing, damaged, or could not be downloaded; the message says which and what to do."""


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, and how to tell that it is the right one.

    dataset, name: it is looked for as <folder>/<dataset>/<name>.
    sha256: checksum, in hexadecimal, of the decoded content.
    mirrors: addresses that ``name`` is appended to, tried in turn.
    decode: from the file's bytes to its content, e.g. gzip.decompress.
    """

    dataset: str
    name: str
    sha256: str
    mirrors: tuple[str, ...]
    decode: Callable[[bytes], bytes] = bytes

    def find(self) -> Path | None:
        """Where the file lies on this machine, or None. Looks at names only, not at the content.

        With the environment variable HYPERGRAD_DATA, only in $HYPERGRAD_DATA/<dataset> and $HYPERGRAD_DATA;
        otherwise in data/<dataset> of the checkout, then in the user's cache.
        Raises DatasetError where HYPERGRAD_DATA is set and the file is in neither place.
        """
        if named := os.environ.get("HYPERGRAD_DATA"):
            folder = Path(named).expanduser()
            places = [folder / self.dataset, folder]
        else:
            places = [CHECKOUT_DATA / self.dataset, user_cache(self.dataset)]
        for place in places:
            if (place / self.name).is_file():
                return place / self.name
        if named:
            raise DatasetError(
                f"HYPERGRAD_DATA is set to {named}, but {self.name} is neither in {places[0]} nor in "
                f"{places[1]}: put it there (from {self._sources()}), or unset HYPERGRAD_DATA"
            )
        return None

    def read(self) -> tuple[Path, bytes]:
        """The file's path and its decoded, verified content; a missing file is downloaded to the cache.

        Raises DatasetError where the file is damaged, or can be neither found nor downloaded.
        """
        path = self.find()
        if path is None:
            return self._download()
        try:
            return path, self._decoded(path)
        except DatasetError as error:
            raise DatasetError(
                f"{path} is damaged ({error}): replace it with a good copy, from {self._sources()}"
            ) from error

    def _decoded(self, path: Path) -> bytes:
        raw = path.read_bytes()
        try:
            content = self.decode(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{len(raw)} bytes that cannot be decoded: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DatasetError(f"the sha256 of its content is {found}, expected {self.sha256}")
        return content

    def _download(self) -> tuple[Path, bytes]:
        cache = user_cache(self.dataset)
        failures = []
        for mirror in self.mirrors:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                # Only a verified file gets its name in the cache, and gets it in one step.
                with tempfile.TemporaryDirectory(dir=cache) as scratch:
                    fetch(mirror + self.name, Path(scratch) / self.name)
                    content = self._decoded(Path(scratch) / self.name)
                    return Path(scratch, self.name).replace(cache / self.name), content
            except OSError as error:  # requests' exceptions are OSErrors too
                failures.append(f"{mirror}{self.name} ({error})")
        raise DatasetError(
            f"{self.name} is neither in {CHECKOUT_DATA / self.dataset} nor in {cache}, and could not be "
            f"downloaded: {'; '.join(failures)}. Download it by hand from one of these addresses into one of "
            "these folders, or into another one and set the environment variable HYPERGRAD_DATA to that"
        )

    def _sources(self) -> str:
        return " or ".join(mirror + self.name for mirror in self.mirrors)


def user_cache(dataset: str) -> Path:
    """The folder of the user's cache for a data set; it need not exist."""
    import pooch

    return Path(pooch.os_cache("hypergrad")) / dataset


def fetch(url: str, path: Path) -> None:
    """Download one file, with a progress bar. Raises OSError where that fails."""
    import pooch
    from tqdm import tqdm

    # total=1 only until the server has said how much there is: a bar without a total has no truth value.
    with tqdm(desc=path.name, total=1, unit="B", unit_scale=True) as bar:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)(url, str(path), None)
