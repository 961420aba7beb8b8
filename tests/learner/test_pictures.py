"""Picture files as people have them: found, read as the run reads its own, predicted, and tested where the truth is."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metarun
from metarun import config
from metarun.core.batch_norm import Norm
from metarun.core.intervals import wilson
from metarun.datasets.base import Split
from metarun.datasets.omniglot import Resize
from metarun.errors import UserError
from metarun.learner import pictures, predict
from metarun.learner.learner import Learner
from tests.learner.support import short_run
from tests.support.own_images import QUICK, own_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """Of a run on own images that are gone."""
    folder = tmp_path_factory.mktemp("own")
    root = own_images(folder / "images")
    run = short_run(folder / "run", "dataset=image_folder", f"dataset.path={root}", *QUICK[:3], *QUICK[7:])
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    root.rmdir()
    return metarun.load(run, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes to adapt to and to test, a broken file, a hidden one, and a picture of the support set."""
    own_images(tmp_path / "known", {"ant": 3, "bee": 1})
    own_images(tmp_path / "new", {"ant": 8, "bee": 8, "other": 2})
    for path in sorted((tmp_path / "new").glob("[!.]*/[!.]*")):  # own_images draws the same pictures again
        if path.suffix != ".txt":
            with Image.open(path) as image:
                turned = image.convert("RGB").transpose(Image.Transpose.ROTATE_180)
            path.unlink()
            turned.save(path.with_suffix(".png"))
    (tmp_path / "new/bee/broken.jpg").write_bytes(b"no picture")
    (tmp_path / "new/bee/again.jpg").write_bytes((tmp_path / "known/ant/0.jpg").read_bytes())
    return tmp_path


def test_a_folder_adapts_and_pictures_are_predicted_and_tested(learner: Learner, photos: Path) -> None:
    adapted = learner.adapt(photos / "known")
    assert adapted.classes == ["ant", "bee"] and len(adapted.digests) == 4
    found = pictures.find([str(photos / "new")], [*map(str, adapted.classes or ())])
    read = pictures.read(found, learner.setup.experiment.dataset, set(adapted.digests))
    predicted = predict.predicted(adapted, read, Norm.support)
    assert len(predicted.pictures) == 19 and [p.path.name for p in predicted.unreadable] == ["broken.jpg"]
    assert [p.path.name for p in predicted.pictures if p.of_support] == ["again.jpg"]
    assert len(predicted.tested) == 16 and predicted.confusion.sum(1).tolist() == [8, 8]
    predict.write(predicted, photos / "out.csv")
    rows = list(csv.DictReader((photos / "out.csv").read_text().splitlines()))
    assert len(rows) == 20 and list(rows[0]) == ["file", "label", "probability", "P(ant)", "P(bee)", "truth", "reason"]
    for row in rows:
        path = Path(row["file"])
        if path.name == "broken.jpg":
            assert row["label"] == "" and row["reason"] == "unreadable: no image that Pillow knows"
            continue
        alone = adapted.predict_proba([path])[0]  # alone as among the others
        assert np.allclose([float(row["P(ant)"]), float(row["P(bee)"])], alone, atol=1e-5)
        assert row["label"] == ["ant", "bee"][alone.argmax()] and float(row["probability"]) == max(
            float(row["P(ant)"]), float(row["P(bee)"])
        )
        assert row["truth"] == (path.parent.name if path.parent.name in ("ant", "bee") else "")
    right = sum(a == b for a, b in predicted.tested)
    low, high = wilson(right, 16)
    said = predict.summary(adapted, predicted, Norm.support)
    assert f"accuracy: {100 * right / 16:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f}" in said
    assert "norm support" in said and "of the 16 in folders named like classes" in said
    assert "1 of them in the support set" in said


def test_few_pictures_have_no_statistics_of_their_own(learner: Learner, photos: Path) -> None:
    adapted = learner.adapt(photos / "known")
    found = pictures.find([str(photos / "new/ant/0.png")], [*map(str, adapted.classes or ())])
    read = pictures.read(found, learner.setup.experiment.dataset, ())
    with pytest.raises(UserError, match=r"eval\.norm=transductive: must be support or support_plus_one for 1 pictures"):
        predict.predicted(adapted, read, Norm.transductive)
    assert len(predict.predicted(adapted, read, Norm.support_plus_one).labels) == 1


def test_pictures_are_found_where_they_lie(photos: Path) -> None:
    found = pictures.find([str(photos / "new")], ["ant", "bee"])
    truths = {path.relative_to(photos / "new").as_posix(): truth for path, truth in found.items()}
    assert truths["ant/0.png"] == "ant" and truths["other/0.png"] is None
    assert not any(".thumbnails" in name or "._0" in name for name in truths)
    assert (
        list(pictures.find([str(photos / "new/ant/*.png")], ["ant"]).values()) == [None] * 8
    )  # a pattern has no truth
    assert list(pictures.find([str(photos / "new/ant")], ["ant"])) == sorted((photos / "new/ant").glob("[!.]*.png"))
    twice = pictures.find([str(photos / "new"), str(photos / "new/ant/0.png")], ["ant"])
    assert len(twice) == len(found)
    assert len(pictures.find([str(photos / "new")], [], [photos / "new/ant/0.png"])) == len(found) - 1
    (photos / "empty").mkdir()
    for place, said in (("empty", "has no picture"), ("nowhere", "there is no such file or folder")):
        with pytest.raises(UserError, match=said):
            pictures.find([str(photos / place)], [])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: (p / "known/cat").mkdir(), "no picture in cat"),
        (lambda p: (p / "known/bee").rename(p / "moved"), "has 1 folders; it needs one for each class"),
        (lambda p: (p / "known/bee/bad.png").write_bytes(b"x"), "bad.png: unreadable image"),
        (lambda p: own_images(p / "known", {"cat": 1}), "has 3 classes (ant, bee, cat): must be 2"),
    ],
)
def test_a_support_folder_that_cannot_be_is_one_line(learner: Learner, photos: Path, make, said: str) -> None:
    make(photos)
    with pytest.raises(UserError) as error:
        learner.adapt(photos / "known")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_files_are_read_as_the_run_read_its_own(learner: Learner, tmp_path: Path) -> None:
    """With their rotation, transparency and depth: the pixels of the class pool, bit by bit."""
    root = own_images(tmp_path / "images")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)).save(root / "ant/a.jpg", exif=exif)
    dataset = dataclasses.replace(learner.setup.experiment.dataset, path=str(root))  # type: ignore[call-arg]
    pool = dataset.load(root, CPU)
    names = {name: pool.pools[split] for split in Split for name in pool.pools[split].names}  # type: ignore[attr-defined]
    for name, held in names.items():
        first = int(held.first[held.names.index(name)])
        files = sorted(p for p in (root / name).glob("[!.]*") if p.suffix != ".txt")
        for i, path in enumerate(files):
            assert np.array_equal(dataset.picture(path), held.images[first + i].numpy()), path


def test_omniglots_own_files_are_read_as_omniglot(tmp_path: Path) -> None:
    ink = np.random.default_rng(0).random((105, 105)) < 0.2
    drawing = Image.fromarray(np.where(ink, 0, 255).astype(np.uint8))
    drawing.convert("1").save(tmp_path / "a.png")
    for resize in Resize:
        for invert in (False, True):
            words = ["dataset=omniglot", f"dataset.resize={resize.name}", f"dataset.invert={str(invert).lower()}"]
            dataset = config.compose(words)[0].dataset
            own = np.asarray(resize.apply(drawing, 28))  # as in omniglot.prepared
            assert np.array_equal(dataset.picture(tmp_path / "a.png")[0], 255 - own if invert else own)


def test_the_interval_of_a_share() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    for right, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right, of) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("name", ["sinusoid", "gaussians", "navigation"])
def test_what_has_no_pictures_says_so(name: str) -> None:
    dataset = config.compose([f"dataset={name}"])[0].dataset
    assert not dataset.has_pictures()
    with pytest.raises(UserError, match=f"dataset={name}: its examples are no image files"):
        dataset.picture(Path("a.png"))


def by_words(path: Path, reading: str) -> np.ndarray:
    """Read a picture as ``reading`` says, word by word, as one does who has no metarun."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    for words in reading.split("; "):
        if "square in its middle" in words:
            side = min(image.size)
            left, top = ((whole - side) // 2 for whole in image.size)
            image = image.crop((left, top, left + side, top + side))
        if "black and white, cut at grey 128" in words:
            image = image.point(lambda grey: 255 * (grey >= 128))
        if resized := re.search(r"resized to (\d+)x\d+ \((.*)\)", words):
            kinds = {"Lanczos": "LANCZOS", "bicubic": "BICUBIC", "lanczos": "LANCZOS"}
            image = image.resize((int(resized[1]),) * 2, Image.Resampling[kinds.get(resized[2], "NEAREST")])
        if words == "grey":
            image = image.convert("L")
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return 255 - pixels if "inverted" in reading else pixels


@pytest.mark.parametrize(
    "words",
    [
        ["glyphs"],
        ["mnist", "dataset.size=20"],
        *(["omniglot", f"dataset.resize={r.name}", f"dataset.invert={i}"] for r in Resize for i in ("true", "false")),
        *(["miniimagenet", f"dataset.resize={filter}"] for filter in ("lanczos", "bicubic")),
        *(["image_folder", f"dataset.grey={grey}", "dataset.size=30"] for grey in ("true", "false")),
    ],
)
def test_what_is_said_of_reading_a_picture_is_done(words: list[str], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (70, 91, 3), np.uint8)).save(tmp_path / "a.png")
    dataset = config.compose([f"dataset={words[0]}", *words[1:]])[0].dataset
    assert np.array_equal(dataset.picture(tmp_path / "a.png"), by_words(tmp_path / "a.png", dataset.reading))
