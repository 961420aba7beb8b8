"""``metarun export``, and ``adapt`` and ``predict`` on rows, in a folder with their runs; and docs/export.md."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metarun
from metarun.cli import main as cli
from metarun.core.intervals import wilson
from metarun.learner.export import reloaded
from tests.learner.support import short_run
from tests.support.own_images import QUICK as QUICK_IMAGES
from tests.support.own_images import own_images
from tests.support.own_tables import NUMBERS, STATES, sensors, write

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of pictures, of numbers of a table, and of its classes; the data are gone."""
    folder = tmp_path_factory.mktemp("runs")
    root, at = own_images(folder / "images"), f"data_root={folder}"
    write(folder / "sensors.csv")
    short_run(folder / "photos", "dataset=image_folder", f"dataset.path={root}", *QUICK_IMAGES[:3], *QUICK_IMAGES[7:])
    short_run(folder / "numbers", at, *NUMBERS, "dataset.split=part", "shot=3", "query=3", "model.norm=true")
    short_run(folder / "states", at, *STATES, "shot=3", "query=3")
    (folder / "sensors.csv").unlink()
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with these runs, pictures of two classes, and the rows of a machine in two files."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "numbers", "states"):
        (tmp_path / name).symlink_to(runs / name)
    own_images(tmp_path / "known", {"ant": 2, "bee": 3})
    header, *rows = sensors()
    mine = [row for row in rows if row[0] == "M08"]
    write(tmp_path / "five.csv", [header, *mine[:6]])
    write(tmp_path / "more.csv", [header, *mine[4:]])
    write(tmp_path / "unknown.csv", [[header[2], header[1]], *([row[2], row[1]] for row in mine)])
    write(tmp_path / "two.csv", [header, *rows[:20]])
    return tmp_path


def ran(words: str) -> int:
    """Exit status of a command."""
    return cli.main([*words.split(), "device=cpu"])


@pytest.mark.full
def test_a_picture_is_classified_with_the_exported_folder_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("export run=photos support=known out=ants algo.eval_inner_steps=2") == 0
    out, err = capsys.readouterr()
    assert out.startswith("written: ants (README.md, classes.json, config.json, load.py, model.pt, network.py)")
    assert err == ""
    made = reloaded(here / "ants")
    reading = json.loads((here / "ants/config.json").read_text())["inputs"]["reading"]
    assert "the square in its middle, resized to 16x16 (Lanczos); RGB" in reading
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(here / "new.png")
    with Image.open(here / "new.png") as image:  # as the card says
        small = np.asarray(image.crop((5, 0, 35, 30)).resize((16, 16), Image.Resampling.LANCZOS))
    with torch.no_grad():
        outputs = made["network"](torch.from_numpy(small.transpose(2, 0, 1)[None] / np.float32(255)))
    assert ran("adapt run=photos support=known out=ants.model algo.eval_inner_steps=2") == 0
    want = metarun.load_adapted("ants.model", device="cpu").predict_proba(["new.png"])
    np.testing.assert_allclose(outputs.softmax(-1), want, atol=1e-5)
    assert made["classes"] == ["ant", "bee"]
    card = (here / "ants/README.md").read_text()
    assert (
        "metarun export run=photos support=known out=ants format=state_dict algo.eval_inner_steps=2 device=cpu" in card
    )
    assert "algo.eval_inner_steps 2 (tested: " in card


@pytest.mark.full
def test_numbers_of_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("adapt run=numbers support=five.csv out=m08.model") == 0
    assert "6 rows, " in capsys.readouterr().out
    assert ran("predict model=m08.model rows=more.csv") == 0
    out = capsys.readouterr().out
    _, *rows = sensors()
    mine = [[float(cell) for cell in row[1:4]] for row in rows if row[0] == "M08"]
    adapted = metarun.load("numbers", device="cpu").adapt([row[:2] for row in mine[:6]], [row[2] for row in mine[:6]])
    want = adapted.predict([row[:2] for row in mine[4:]])[:, 0]
    lines = list(csv.DictReader((here / "predictions.csv").read_text().splitlines()))
    assert [line["row"] for line in lines] == [str(i + 1) for i in range(12)]
    np.testing.assert_allclose([float(line["temperature"]) for line in lines], want, rtol=1e-5)
    assert [float(line["truth(temperature)"]) for line in lines] == [row[2] for row in mine[4:]]
    squares = (want[2:] - [row[2] for row in mine[6:]]) ** 2  # two of the rows are in the support set
    half = 1.96 * squares.std(ddof=1) / math.sqrt(len(squares))
    found = re.search(r"root mean squared error ([\d.]+), 95 % interval ([\d.]+) to ([\d.]+) over rows", out)
    ends = (squares.mean(), max(squares.mean() - half, 0), squares.mean() + half)
    assert found and [float(f) for f in found.groups()] == pytest.approx([math.sqrt(e) for e in ends], rel=1e-4)
    simple = math.sqrt(np.mean([(np.mean([row[2] for row in mine[:6]]) - row[2]) ** 2 for row in mine[6:]]))
    assert float(re.findall(r"support rows gets ([\d.]+)", out)[0]) == pytest.approx(simple, rel=1e-4)
    assert "2 of them in the support set" in out and "norm support" in out
    assert (
        ran("predict run=numbers support=five.csv rows=unknown.csv out=u.csv") == 0
    )  # other columns, in another order, and no truth
    again = list(csv.DictReader((here / "u.csv").read_text().splitlines()))
    assert list(again[0]) == ["row", "temperature"] and "root" not in capsys.readouterr().out
    np.testing.assert_allclose([float(line["temperature"]) for line in again[4:]], want, rtol=1e-5)

    assert ran("export run=numbers support=five.csv out=m08") == 0
    network = reloaded(here / "m08")["network"]
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.tensor([r[:2] for r in mine[4:]]).double())[:, 0], want, rtol=1e-5)


def test_classes_of_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("predict run=states support=five.csv rows=more.csv") == 0
    out = capsys.readouterr().out
    lines = list(csv.DictReader((here / "predictions.csv").read_text().splitlines()))
    assert list(lines[0]) == ["row", "label", "probability", "P(idle)", "P(run)", "truth"]
    right = sum(line["label"] == line["truth"] for line in lines[2:])
    low, high = wilson(right, 10)
    assert f"accuracy: {10 * right:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} over rows" in out
    header, *rows = sensors()
    mine = [row for row in rows if row[0] == "M08"][8:]
    write(here / "odd.csv", [header, *([*row[:5], "off", row[6]] if i < 3 else row for i, row in enumerate(mine))])
    assert ran("predict run=states support=five.csv rows=odd.csv out=odd_found.csv") == 0
    out = capsys.readouterr().out
    assert "3 of them of other classes, and not counted" in out and "this support set: 5 rows" in out
    assert all(line["label"] == ("run" if float(line["P(run)"]) > 0.5 else "idle") for line in lines)


WRONG = {  # command -> words of its one line
    "export out=x": "run: has no value",
    "export run=photos": "out: has no value",
    "export run=photos out=known": "out=known: is there already and not empty",
    "export run=photos out=five.csv/x": "out=five.csv/x: must be a new folder, and",
    "export run=photos out=x format=onnnx": "format=onnnx: must be one of state_dict, safetensors, torch_export, onnx",
    "export run=nowhere out=x": "run=nowhere: is no run folder",
    "export run=photos support=nowhere out=x": "support=nowhere: is no folder",
    "export run=photos support=five.csv out=x": "support=five.csv: dataset=image_folder has no tables",
    "export run=numbers support=known out=x": "support=known: is no file; this run takes rows",
    "export run=photos out=x eval.tasks=5": "eval.tasks=5: export does not read it",
    "export run=numbers support=two.csv out=x": "support=two.csv: has rows of 2 tasks (machine: M00, M01)",
    "adapt run=numbers support=unknown.csv out=m": "dataset.target=temperature: unknown.csv has no such column",
    "predict run=numbers support=five.csv rows=two.csv": "rows=two.csv: has rows of 2 tasks",
    "predict run=numbers support=five.csv rows=none.csv": "rows=none.csv: is no file",
    "predict run=numbers support=five.csv rows=bad.csv": "rows=bad.csv: line 3, column load: 'much' is no number",
    "predict run=numbers support=five.csv images=known": "dataset=table has no pictures",
    "predict run=numbers support=five.csv rows=more.csv images=known": "images, rows: give one of them",
    "predict run=numbers support=five.csv rows=more.csv eval.norm=transductive": "must be support or",
    "predict run=numbers support=five.csv rows=more.csv out=more.csv": "out=more.csv: is the file of rows=, and would",
    "predict run=photos support=known rows=more.csv": "rows=more.csv: dataset=image_folder has no tables",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_one_line(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.csv").write_text("speed [rpm],load\n900,3\n900,much\n")
    assert ran(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and WRONG[words] in err
    assert not (here / "x").exists() and not list(here.glob(".*.tmp"))


@pytest.mark.full
def test_the_page_says_what_happens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands run as they stand but for the names of folders, and its Python lines too."""
    (commands,) = re.findall(r"```\n(metarun export.*?)```", PAGE, re.S)
    for line in commands.splitlines():
        words = shlex.split(line.replace("outputs/RUN", "photos").replace("photos/known", "known"))[1:]
        if "format=onnx" in words:
            pytest.importorskip("onnxscript")
            pytest.importorskip("onnxruntime")
        assert cli.main([*words, "device=cpu"]) == 0
    listed = set(re.findall(r"`([\w.]+)`", PAGE))
    written = {path.name for folder in ("fruit", "start") for path in (here / folder).iterdir()}
    assert written <= listed
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, object] = {"run": "photos", "photos": "known"}
    exec(python, names)
    assert (here / "exported/load.py").exists()


@pytest.mark.full
def test_real_photographs(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = data_root / "grocery84"
    if not shop.is_dir():
        pytest.skip("METARUN_DATA has no grocery84")
    monkeypatch.chdir(tmp_path)
    classes = sorted(path.name for path in shop.iterdir() if path.is_dir())[::13][:5]
    for name in classes:
        for part, some in {"known": slice(0, 3), "new": slice(3, 6)}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for path in sorted((shop / name).glob("*.jpg"))[some]:
                (tmp_path / part / name / path.name).symlink_to(path)
    words = ["dataset=image_folder", f"dataset.path={shop}", "dataset.size=28", "way=5", "model.filters=8"]
    short_run(tmp_path / "run", *words)
    assert ran("export run=run support=known out=out format=torch_export") == 0
    made = reloaded(tmp_path / "out")
    assert made["classes"] == classes
    adapted = metarun.load("run", device="cpu").adapt("known")
    dataset = adapted.setup.experiment.dataset
    files = sorted(tmp_path.glob("new/*/*.jpg"))
    x = torch.from_numpy(np.stack([dataset.picture(path) for path in files])).float() / 255
    assert len(files) == 15 and torch.allclose(made["network"](x), adapted([*files]), atol=1e-4)


def test_an_adapted_model_is_exported_as_the_run_and_its_support_set_are(here: Path) -> None:
    assert ran("adapt run=states support=five.csv out=five.model") == 0
    assert ran("export model=five.model out=of_model") == 0
    assert ran("export run=states support=five.csv out=of_run") == 0
    for name in ("model.pt", "config.json", "classes.json", "load.py", "network.py"):
        assert (here / "of_model" / name).read_bytes() == (here / "of_run" / name).read_bytes()
    card = (here / "of_model/README.md").read_text()
    assert "metarun export model=five.model out=of_model" in card
    whole = (here / "of_run/README.md").read_text()
    assert card.split("## Commands")[0] == whole.split("## Commands")[0]


def test_a_card_takes_no_number_of_another_run_in_the_place_of_its_own(here: Path) -> None:
    assert ran("adapt run=states support=five.csv out=five.model") == 0
    (here / "states").unlink()
    (here / "states").symlink_to(here / "numbers")
    assert ran("export model=five.model out=out") == 0
    card = (here / "out/README.md").read_text()
    assert "There is no result of this run in states: it was not tested, or is elsewhere." in card
    assert "normalised_mse" not in card and "metarun train" not in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export model=m run=states out=out", "model=m: must be left out where run=PATH is given"),
        ("export model=m support=five.csv out=out", "support, checkpoint: model=MODEL is adapted already"),
        ("export out=out", "run: has no value, and needs one"),
        ("export model=m", "out: has no value, and needs one"),
        ("export model=five.csv out=out", "five.csv: is damaged, or no file that metarun adapt wrote"),
    ],
)
def test_a_model_and_what_it_was_made_of_are_not_mixed(
    words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (here / "out").exists()


def test_a_model_is_adapted_already(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "model=m", "out=out", "algo.eval_inner_steps=2"]) == 2
    assert "algo.eval_inner_steps=2: a model is adapted already; export takes device with it" in capsys.readouterr().err
    assert cli.main(["export", "model=m", "out=out", "dataset.delimiter=comma"]) == 2
    assert "dataset.delimiter=comma: a model is adapted already" in capsys.readouterr().err


def test_rows_of_a_support_set_are_of_the_classes_of_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, *rows = csv.reader((here / "five.csv").read_text().splitlines())
    state = header.index("state")
    write(here / "strange.csv", [header, rows[0], [*rows[1][:state], "broken", *rows[1][state + 1 :]], *rows[2:]])
    write(here / "few.csv", [header, *[row for row in rows if row[state] == rows[0][state]]])
    assert ran("adapt run=states support=strange.csv out=m") == 2
    assert "support=strange.csv: line 3, state: class broken is none of those of this run" in capsys.readouterr().err
    assert ran("adapt run=states support=few.csv out=m") == 2
    assert "support=few.csv: has no row of class" in capsys.readouterr().err


def test_a_file_of_rows_may_have_another_delimiter_than_the_training_had(here: Path) -> None:
    text = (here / "five.csv").read_text()
    (here / "semicolons.csv").write_text(text.replace(",", ";"))
    assert ran("adapt run=numbers support=semicolons.csv out=m dataset.delimiter=semicolon") == 0
    assert ran("adapt run=numbers support=five.csv out=n") == 0
    assert ran("predict model=m rows=unknown.csv out=a.csv dataset.delimiter=comma") == 0
    assert ran("predict model=n rows=unknown.csv out=b.csv") == 0
    assert (here / "a.csv").read_text() == (here / "b.csv").read_text()
