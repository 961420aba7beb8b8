"""CUB: Wah et al. 2011, 200 kinds of birds, in the split of Chen et al. 2019 ("A closer look at few-shot ...")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metarun.datasets.about import About, File
from metarun.datasets.listed import ListedImages, Source
from metarun.datasets.listed_sources import in_folders
from metarun.datasets.split_file import Listed

ABOUT = About(
    title="photographs of birds",
    citation="Wah, Branson, Welinder, Perona and Belongie 2011, The Caltech-UCSD Birds-200-2011 dataset; split of Chen "
    "et al. 2019",
    classes=200,
    images=11_788,
    splits="100/50/50 classes",
    licence="non-commercial research",
    size=None,
    files=(File(name="CUB_200_2011.tgz", md5="97eceeb196236b17998738112f37df78"),),
    by_hand="Unpack CUB_200_2011.tgz of www.vision.caltech.edu/datasets/cub_200_2011 in {data_root}, so that there is "
    "{data_root}/CUB_200_2011/images/001.Black_footed_Albatross.",
    downloads=False,
    places=("CUB_200_2011", "cub/CUB_200_2011", "CUB/CUB_200_2011", "cub", "CUB"),
)


@dataclass(kw_only=True, slots=True)
class Cub(ListedImages):
    """Photographs of birds, cut to their centre square; a class is a species."""

    about: ClassVar[About | None] = ABOUT
    complete: ClassVar[int | None] = ABOUT.images

    def find(self, data_root: Path, listed: Listed) -> Source:
        source = in_folders([data_root / name for name in ABOUT.places], listed, "cub")
        if source is None:
            raise self.nowhere(data_root)
        return source
