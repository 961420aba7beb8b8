"""``metarun data``: which data sets there are, get, check and show them, on small generated copies."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from metarun import config
from metarun.cli import main as cli
from metarun.compat.torchvision import impatient, torchvision
from metarun.config import registry
from metarun.datasets import miniimagenet, mnist, omniglot
from metarun.datasets.about import About, File
from metarun.datasets.base import Split
from tests.datasets.test_omniglot import small_omniglot
from tests.support.html import Parsed

Output = pytest.CaptureFixture[str]
SMALL = ["way=2", "shot=1", "query=1"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder, a cache and a data_root of its own, and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METARUN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "data").mkdir()
    yield


def photos(root: Path, classes: int = 8, each: int = 4) -> Path:
    """A user's own folder: noise, so that all files differ."""
    generator = np.random.default_rng(0)
    for c in range(classes):
        (root / f"class{c}").mkdir(parents=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (12, 10, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"class{c}" / f"{i}.png")
    return root


def check(capsys: Output, *words: str) -> tuple[int, str, list[str]]:
    """Exit status, summary and problems."""
    status = cli.main(["data", "check", *words])
    out = capsys.readouterr().out.splitlines()
    problems = [line.strip() for line in out[1:] if line.startswith("  ") and ": " in line]
    return status, out[0] if out else "", problems


def test_list_names_every_data_set_and_fits_the_terminal(capsys: Output) -> None:
    Path("data/omniglot.npz").write_bytes(bytes(12_345_678))
    assert cli.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    first = {line.split()[0]: line.split() for line in lines if line and not line.startswith(" ")}
    assert set(config.choices("dataset")) <= set(first)
    assert first["omniglot"][-5:] == ["1,623", "32,460", "12", "MB", "yes"]
    assert first["miniimagenet"][-1] == first["mnist"][-1] == "no"
    out = " ".join(out.split())
    assert "in omniglot.npz" in out and "metarun data get mnist" in out
    assert "generated: needs nothing" in out and "simulated: no data" in out
    assert cli.main(["data", "list", "data_root=elsewhere"]) == 0
    assert " yes" not in capsys.readouterr().out


def test_what_is_known_of_a_data_set_is_whole() -> None:
    classes = registry.part_classes("dataset")
    abouts: dict[str, About | None] = {name: getattr(of, "about") for name, of in classes.items()}  # noqa: B009
    published = {name: about for name, about in abouts.items() if about is not None}
    assert {"omniglot", "mnist", "miniimagenet"} <= set(published)
    for about in published.values():
        assert about.title and about.citation and about.splits and about.licence and about.by_hand.endswith(".")
        assert about.places or about.files
        assert "/its/folder" in about.by_hand_in(Path("/its/folder")), "it says where to put the files"
        assert all(file.md5 or file.sha256 or file.bytes for file in about.files)


@pytest.mark.parametrize("name, words", {
    "omniglot": "images_background.zip data/omniglot-py no network",
    "mnist": "train-images-idx3-ubyte data/MNIST/raw no network",
    "miniimagenet": "image-net.org data/miniimagenet",
}.items())  # fmt: skip
def test_what_cannot_be_had_is_one_line(name: str, words: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: Path) -> None:
        raise URLError("no network")

    monkeypatch.setattr(omniglot, "download", offline)
    monkeypatch.setattr(mnist, "_from_download", offline)
    assert cli.main(["data", "get", name]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"metarun: error: dataset={name}: ") and err.count("\n") == 1
    assert all(word in err for word in words.split()), err


def test_get_downloads_once(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def source(data_root: Path) -> None:
        asked.append(data_root)
        small_omniglot(data_root)

    monkeypatch.setattr(omniglot, "download", source)
    for said in ("downloaded to", "is here already"):
        assert cli.main(["data", "get", "omniglot"]) == 0
        out = capsys.readouterr().out
        assert said in out and "omniglot-py" in out and out.count("\n") == 1
    assert asked == [Path(asked[0])] and asked[0].name == "data"
    assert cli.main(["data", "get", "sinusoid"]) == 0
    assert "needs no files" in capsys.readouterr().out


@pytest.mark.full
def test_servers_that_are_silent_or_send_something_else(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sends(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not that archive")

        def log_message(self, *_: object) -> None:
            """Nothing: standard error is looked at."""

    monkeypatch.setattr(omniglot, "impatient", lambda: impatient(0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent, HTTPServer(("127.0.0.1", 0), Sends) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        nobody = silent.getsockname()[1]
        for port, said in ((nobody, "timed out"), (other.server_port, "corrupted"), (nobody, "timed out")):
            address = f"http://127.0.0.1:{port}"
            monkeypatch.setattr(torchvision().datasets.Omniglot, "download_url_prefix", address)
            began = time.monotonic()
            assert cli.main(["data", "get", "omniglot"]) == 2
            assert time.monotonic() - began < 60
            out, err = capsys.readouterr()
            last = err.splitlines()[-1]  # above it there is torchvision's progress
            assert not out and last.startswith("metarun: error: dataset=omniglot: not downloaded (") and said in last
        other.shutdown()


def test_own_images_that_are_right(capsys: Output) -> None:
    photos(Path("data/images"))
    words = ["image_folder", "dataset.shares=[0.5,0.25,0.25]", "dataset.size=8", *SMALL]
    assert cli.main(["data", "check", *words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("data/images: no problem; 8 classes, 32 images")
    assert out[1:] == [
        f"{split}: {n} classes, 4 images in each" for split, n in (("train", 4), ("val", 2), ("test", 2))
    ]
    assert not Path("cache").exists(), "a check keeps nothing"


def test_damaged_extra_and_repeated_images_are_found(capsys: Output) -> None:
    root = photos(Path("data/images"))
    damaged = root / "class1/2.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    (root / "class2/notes.txt").write_text("mine")
    (root / "class2/inner").mkdir()
    (root / "stray.png").write_bytes((root / "class0/0.png").read_bytes())
    (root / "class5/again.png").write_bytes((root / "class4/0.png").read_bytes())
    (root / "class9").mkdir()
    (root / "class0/.hidden").write_text("")
    words = ["image_folder", "dataset.shares=[0.5,0.25,0.25]", "dataset.size=8", *SMALL]
    status, summary, problems = check(capsys, *words)
    assert status == 1 and "6 problems" in summary and "32 images" in summary
    said = "\n".join(problems)
    expected = [
        "unreadable: class1/2.png (",
        "the same picture twice: class5/again.png is the same file as class4/0.png",
        *("extra: class2/inner", "extra: class2/notes.txt", "extra: stray.png", "no picture: class9"),
    ]
    for line in expected:
        assert line in said, said
    assert "hidden" not in said and ".txt" not in said.replace("extra: class2/notes.txt", "")


def test_too_few_classes_for_tasks_are_a_problem(capsys: Output) -> None:
    photos(Path("data/images"))
    status, summary, problems = check(capsys, "image_folder", "dataset.size=8", "way=6", "shot=1", "query=1")
    assert status == 1 and all("too few: way=6" in line for line in problems) and f"{len(problems)} problem" in summary


def test_many_problems_of_one_kind_are_counted(capsys: Output) -> None:
    root = photos(Path("data/images"))
    for i in range(50):
        (root / f"class0/{i}.txt").write_text("")
    _, _, problems = check(capsys, "image_folder", "dataset.shares=[0.5,0.25,0.25]", "dataset.size=8", *SMALL)
    assert len(problems) == 21 and problems[-1] == "extra: 30 more"


@pytest.fixture
def characters(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six characters of two drawings each, in the folders of the original."""
    root = Path("data").absolute()
    ink = small_omniglot(root)
    monkeypatch.setattr(omniglot, "CHARACTERS", 6)
    monkeypatch.setattr(omniglot, "DRAWINGS", 2)
    monkeypatch.setattr(omniglot, "INK_SHA256", hashlib.sha256(np.packbits(ink).data).hexdigest())
    held = {Split.train: [0, 1], Split.val: [2, 3], Split.test: [4, 5]}
    monkeypatch.setattr(omniglot.NamedSplit, "characters", lambda _: held)
    return root / "omniglot-py"


@pytest.mark.full
def test_omniglot_in_folders(characters: Path, capsys: Output) -> None:
    assert check(capsys, "omniglot", *SMALL)[::2] == (0, [])
    one, other = sorted(characters.glob("images_background/*/*/*.png"))[:2]
    assert cli.main(["data", "show", "omniglot", "classes=2", *SMALL]) == 0 and Path("cache").exists()
    capsys.readouterr()
    whole = one.read_bytes()
    one.write_bytes(whole[: len(whole) // 2])
    status, summary, problems = check(capsys, "omniglot", *SMALL)
    assert status == 1 and "1 problem" in summary and problems[0].startswith("unreadable: "), "the cache is not asked"
    one.write_bytes(whole)
    other.rename(other.with_name("copy of it.png"))
    _, _, problems = check(capsys, "omniglot", *SMALL)
    assert {line.partition(": ")[0] for line in problems} == {"extra", "missing"}
    assert any(other.name in line for line in problems if line.startswith("missing"))
    other.with_name("copy of it.png").rename(other)
    with Image.open(one) as image:
        pixels = ~np.asarray(image)
    Image.fromarray(pixels).save(one)
    _, _, problems = check(capsys, "omniglot", *SMALL)
    assert len(problems) == 1 and problems[0].startswith("changed: ")
    Image.fromarray(pixels[:50]).save(one)
    _, _, problems = check(capsys, "omniglot", *SMALL)
    assert len(problems) == 1 and "105x50 pixels instead of 105x105" in problems[0]


def test_omniglot_in_one_file(characters: Path, capsys: Output) -> None:
    ink = np.stack([~np.asarray(Image.open(path)) for path in sorted(characters.rglob("*.png"), key=lambda p: p.name)])
    ink, npz = ink.reshape(6, 2, 105, 105), characters.with_name("omniglot.npz")
    np.savez(npz, ink=ink)
    status, summary, _ = check(capsys, "omniglot", *SMALL)
    assert status == 0 and "omniglot.npz: no problem" in summary
    np.savez(npz, ink=~ink)
    assert check(capsys, "omniglot", *SMALL)[2][0].startswith("changed: ")
    npz.write_bytes(npz.read_bytes()[:-500])
    status, _, problems = check(capsys, "omniglot", *SMALL)
    assert status == 1 and problems[0].startswith("damaged: ") and "omniglot.npz" in problems[0]


def test_files_with_known_checksums(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    right = b"as published"
    known = tuple(
        File(name=f"MNIST/raw/{name}", md5=hashlib.md5(right).hexdigest(), bytes=len(right))
        for name in ("whole", "changed", "cut", "missing", "archive.zip")
    )
    about = mnist.ABOUT
    fields = {name: getattr(about, name) for name in About.__dataclass_fields__} | {"files": known}
    monkeypatch.setattr(mnist.MNIST, "about", About(**fields))
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for name, content in {"whole": right, "changed": right.upper(), "cut": right[:-1]}.items():
        (raw / name).write_bytes(content)
    status, _, problems = check(capsys, "mnist")
    assert status == 1 and len(problems) == 3, "what does not load has been said"
    assert "changed" in problems[0] and "md5 is" in problems[0]
    assert "cut" in problems[1] and "11 bytes instead of 12" in problems[1]
    assert problems[2].startswith("missing: ") and problems[2].endswith("MNIST/raw/missing")


def test_every_bad_column_of_a_table_is_named(capsys: Output) -> None:
    rows = [f"{i % 4},{i},x{i % 8}" for i in range(64)]
    Path("data/table.csv").write_text("\n".join(["speed,load,target", *rows]))
    words = ["table", "dataset.shares=[0.5,0.25,0.25]", *SMALL]
    assert check(capsys, *words)[0] == 0
    rows[3], rows[7] = "fast,3,x3", "3,,x7"
    Path("data/table.csv").write_text("\n".join(["speed,load,target", *rows]))
    status, summary, problems = check(capsys, *words)
    assert status == 1 and "2 problems" in summary
    assert "line 5, column speed" in problems[0] and "line 9, column load" in problems[1]


def test_classes_by_a_list(tmp_path: Path, capsys: Output) -> None:
    root = photos(tmp_path / "elsewhere")
    names = [f"class{c}" for c in range(8)]
    Path("data/mine.json").write_text(json.dumps({"train": names[:4], "val": names[4:6], "test": names[6:]}))
    words = ["class_list", f"dataset.path={root}", "dataset.split=mine.json", "dataset.size=8", *SMALL]
    assert check(capsys, *words)[::2] == (0, [])
    (root / "class3/0.png").write_bytes(b"no picture")
    (root / "class7/0.txt").write_bytes(b"mine")
    status, summary, problems = check(capsys, *words)
    assert status == 1 and summary.startswith(f"class_list in {root}: 2 problems")
    assert problems[0].startswith(f"unreadable: {root}/class3/0.png (") and problems[1] == f"extra: {root}/class7/0.txt"


def test_mini_imagenet_in_folders(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miniimagenet, "IMAGES", 4)
    monkeypatch.setattr(miniimagenet, "COMPLETE", "own 4/2/2")
    for split, classes in (("train", 4), ("val", 2), ("test", 2)):
        photos(Path("data/miniimagenet") / split, classes)
        for folder in Path("data/miniimagenet", split).iterdir():
            folder.rename(folder.with_name(f"{split}{folder.name}"))
    assert check(capsys, "miniimagenet", "dataset.size=8", *SMALL)[::2] == (0, [])
    Path("data/miniimagenet/val/valclass1/3.png").unlink()
    status, _, problems = check(capsys, "miniimagenet", "dataset.size=8", *SMALL)
    assert status == 1 and problems == ["number of files: val/valclass1 has 3 instead of 4"]


def self_contained(page: Path) -> Parsed:
    """The page, which names nothing outside of itself."""
    parsed = Parsed(page.read_text())
    assert all(source.startswith("data:") for source in parsed.attributes("src") + parsed.attributes("href"))
    assert "@import" not in page.read_text() and "url(" not in page.read_text()
    return parsed


def pictures(parsed: Parsed) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(of.partition(",")[2]))) for of in parsed.attributes("src")]


def test_show_draws_classes_and_tasks(capsys: Output) -> None:
    photos(Path("data/images"))
    words = ["image_folder", "dataset.shares=[0.5,0.25,0.25]", "dataset.size=8", "classes=3", *SMALL]
    assert cli.main(["data", "show", *words, "out=sheet"]) == 0
    assert "sheet/classes.png, sheet/episodes.png, sheet/index.html" in capsys.readouterr().out
    for name in ("classes.png", "episodes.png"):
        with Image.open(Path("sheet") / name) as image:
            image.load()
            assert min(image.size) > 100 and len(image.getcolors(1 << 24)) > 50
    parsed = self_contained(Path("sheet/index.html"))
    assert len(pictures(parsed)) == 6 and all(min(image.size) > 50 for image in pictures(parsed))
    text = parsed.inside["main"][0]
    for said in ("train: 3 of 4 classes, all 4 images each", "val: all 2 classes", "2-way 1-shot", "class7",
                 "own 4/2/2, split_seed 0"):  # fmt: skip
        assert said in text, text
    assert "data/images" in text


def test_show_says_why_there_are_no_tasks(capsys: Output) -> None:
    photos(Path("data/images"))
    words = ["image_folder", "dataset.shares=[0.5,0.25,0.25]", "dataset.size=8", "way=3", "shot=1", "query=1"]
    assert cli.main(["data", "show", *words]) == 0
    text = self_contained(Path("outputs/data/image_folder/index.html")).inside["main"][0]
    assert "tasks of val" in text and "none: way=3" in text and "Tasks of train" in text


@pytest.mark.full
def test_show_draws_series_and_curves() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 2, 30)).astype(np.float32)
    np.savez("data/arrays.npz", x=x, y=np.arange(64) % 8)
    assert cli.main(["data", "show", "arrays", "dataset.shares=[0.5,0.25,0.25]", *SMALL, "out=series"]) == 0
    assert sorted(path.name for path in Path("series").iterdir()) == ["classes.png", "index.html"]
    assert len(pictures(self_contained(Path("series/index.html")))) == 3
    assert cli.main(["data", "show", "sinusoid", "shot=5", "out=curve"]) == 0
    assert sorted(path.name for path in Path("curve").iterdir()) == ["index.html", "sinusoid.png"]
    assert "5-shot" in self_contained(Path("curve/index.html")).inside["main"][0]


WRONG = {
    "data": "list get check show",
    "data chek glyphs": "chek did you mean check",
    "data check": "needs the name of a data set glyphs",
    "data check omniglott": "omniglott did you mean omniglot",
    "data check glyphs mnist": "needs the name",
    "data check miniimagenet": "dataset=miniimagenet: is not in data get miniimagenet",
    "data check image_folder dataset.path=nowhere": "nowhere there is no folder",
    "data check glyphs steps=3": "steps=3: data takes dataset.*",
    "data check glyphs dataset.sise=3": "dataset.sise=3 no such key",
    "data list glyphs": "data list glyphs: takes data_root",
    "data get glyphs out=x": "data get: takes neither out nor classes",
    "data show glyphs classes=many": "classes=many whole number",
    "data get table": "dataset=table own dataset.path",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(words: str, capsys: Output) -> None:
    status = cli.main(words.split())
    out, err = capsys.readouterr()
    if status == 1:  # a check that found what is wrong
        assert all(word in out for word in WRONG[words].split()), out
        return
    assert status == 2 and not out and err.startswith("metarun: error: ") and err.count("\n") == 1
    assert all(word in err for word in WRONG[words].split()), err


@pytest.mark.full
def test_real_omniglot_is_as_published(data_root: Path, capsys: Output) -> None:
    status, summary, problems = check(capsys, "omniglot", f"data_root={data_root}")
    assert status == 0 and not problems and "1,623 classes, 32,460 images" in summary
