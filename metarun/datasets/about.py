"""What is known of a published data set: how large it is, who may use it, and how its files are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a data set.

    Attributes:
        name: path below data_root, with ``/`` between folders.
        md5: its MD5 sum; None: not known.
        sha256: its SHA-256 sum; None: not known.
        bytes: its size; None: not known.
    """

    name: str
    md5: str | None = None
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a published data set.

    Attributes:
        title: what it is, a few words.
        citation: authors, year and title of the publication.
        classes: how many classes it has; None: not known.
        images: how many images; None: not known.
        splits: its splits in words, such as ``64/16/20 classes``.
        licence: in words; ``none stated`` where its authors state none.
        size: bytes on disk of what is fetched; None: not known.
        files: files of any of its layouts whose checksums are known.
        by_hand: what to fetch and where to put it, a full sentence; ``{data_root}`` stands for the folder.
        downloads: whether torchvision can fetch it.
        places: paths below data_root, each of which would be a copy; the names of ``files`` need not be repeated.
    """

    title: str
    citation: str
    classes: int | None
    images: int | None
    splits: str
    licence: str
    size: int | None
    files: tuple[File, ...]
    by_hand: str
    downloads: bool
    places: tuple[str, ...] = ()

    def by_hand_in(self, data_root: Path) -> str:
        """Return ``by_hand`` with the folder's name."""
        return self.by_hand.replace("{data_root}", str(data_root))

    def present(self, data_root: Path) -> Path | None:
        """Return the first copy, or a file of one, that there is below ``data_root``; None: there is none."""
        names = (*self.places, *(file.name for file in self.files))
        return next((path for path in (data_root / name for name in names) if path.exists()), None)
