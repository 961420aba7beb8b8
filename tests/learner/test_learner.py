"""A learner gives the numbers of the run's own evaluation, without the data, or says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import metarun
from metarun import config
from metarun.core.batch_norm import Norm
from metarun.core.objective import supervised
from metarun.errors import UserError
from metarun.learner.learner import Learner
from metarun.runs import checkpoint
from tests.learner.support import drawn, evaluated, short_run, with_data

SMALL = ["model=conv4_pool", "model.filters=4", "shot=2", "way=3"]
OF_ALGO = {
    "mann": ["model=mann", "model.units=8", "algo.slots=6", "shot=2", "way=3", "algo.inner_steps=2"],
    "protonet": [*SMALL, "algo.eval_inner_steps=2"],
}
REFUSED = {"oracle": "algo=oracle is told what makes a task"}
MODELS = {
    "conv4": ["model.filters=4"],
    "conv4_maml": ["model.filters=4"],
    "conv4_mini": ["model.filters=4"],
    "conv4_mini_reptile": ["model.filters=4"],
    "conv4_pool": ["model.filters=4"],
    "conv4_reptile": ["model.filters=4"],
    "gaussian_mlp": ["dataset=navigation", "algo.outer_optimizer=adam", "dataset.horizon=5", "shot=2", "query=2"],
    "logistic": [],
    "lstm": ["algo=mann", "model.units=8", "algo.inner_steps=2"],
    "mann": ["algo=mann", "model.units=8", "algo.inner_steps=2"],
    "mlp": ["model.hidden=[8]", "model.norm=true"],
    "mlp_maml": [],
    "resnet18": [],
}


@pytest.fixture(scope="module")
def maml(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    folder = short_run(tmp_path_factory.mktemp("maml") / "run", "algo=maml", *SMALL)
    return metarun.load(folder, device="cpu")


def like_evaluation(learner: Learner) -> None:
    """Batches of tasks and single tasks give what the evaluation gives; the frozen network does, one by one."""
    setup = with_data(learner)
    tasks = drawn(setup)
    want = evaluated(setup, learner, tasks)
    both = learner.adapt(tasks.support_x, tasks.support_y)
    scale = float(want.abs().max())
    assert scale > 0 and float((both(tasks.query_x) - want).abs().max()) < 1e-4 * scale
    one, x = learner.adapt(tasks.support_x[0], tasks.support_y[0]), tasks.query_x[0]
    alone = learner.adapt(tasks.support_x[1], tasks.support_y[1])
    assert torch.allclose(alone(tasks.query_x[1]), want[1], atol=1e-4 * scale)
    frozen = one.module()
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert torch.allclose(frozen(x), want[0], atol=1e-4 * scale)
    for i in range(len(x)):
        assert torch.allclose(frozen(x)[i], frozen(x[i : i + 1])[0], atol=1e-5 * scale)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("algo", config.choices("algo"))
def test_every_method_is_like_its_evaluation_or_refuses(algo: str, tmp_path: Path) -> None:
    if algo in REFUSED:
        run = short_run(tmp_path / "run", f"algo={algo}", "dataset=sinusoid")
        with pytest.raises(UserError, match=REFUSED[algo]):
            metarun.load(run)
        return
    run = short_run(tmp_path / "run", f"algo={algo}", *OF_ALGO.get(algo, SMALL))
    like_evaluation(metarun.load(run, device="cpu"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("model", config.choices("model"))
def test_every_network_is_like_its_evaluation_or_refuses(model: str, tmp_path: Path) -> None:
    small = ["way=2", "shot=2", "algo.eval_inner_steps=1", *MODELS[model]]
    if model == "logistic":
        small = ["dataset=gaussians", "shot=2"]
    if model == "gaussian_mlp":
        run = short_run(tmp_path / "run", *MODELS[model], "eval.shot=2", "eval.query=2")
        with pytest.raises(UserError, match="dataset=navigation has tasks to act in"):
            metarun.load(run)
        return
    run = short_run(tmp_path / "run", f"model={model}", *small)
    like_evaluation(metarun.load(run, device="cpu"))


def test_all_networks_are_listed() -> None:
    assert sorted(MODELS) == config.choices("model")


def test_regression_is_like_its_evaluation(tmp_path: Path) -> None:
    learner = metarun.load(short_run(tmp_path / "run", "dataset=sinusoid"), device="cpu")
    like_evaluation(learner)
    tasks = drawn(with_data(learner))
    adapted = learner.adapt(tasks.support_x[0], tasks.support_y[0, :, 0].tolist())  # [B] is as good as [B, 1]
    want = adapted(tasks.query_x[0])
    assert learner.way is None and adapted.classes is None
    assert np.allclose(adapted.predict(tasks.query_x[0].numpy()), want)
    with pytest.raises(UserError, match="predict_proba: this run predicts numbers"):
        adapted.predict_proba(tasks.query_x[0])


def test_two_classes_of_one_output(tmp_path: Path) -> None:
    learner = metarun.load(short_run(tmp_path / "run", "dataset=gaussians"), device="cpu")
    tasks = drawn(with_data(learner))
    adapted = learner.adapt(tasks.support_x[0], ["no", "yes"][0:1] * 5 + ["yes"] * 5)
    chance, outputs = adapted.predict_proba(tasks.query_x[0]), adapted(tasks.query_x[0])
    assert chance.shape == (4, 2) and np.allclose(chance[:, 1], torch.sigmoid(outputs[:, 0]))
    assert list(adapted.predict(tasks.query_x[0])) == ["yes" if o > 0 else "no" for o in outputs[:, 0]]


@pytest.mark.parametrize("norm", ["transductive", "support_plus_one"])
def test_other_statistics_on_request_alone(maml: Learner, norm: str) -> None:
    setup = with_data(maml)
    tasks = drawn(setup)
    adapted = maml.adapt(tasks.support_x, tasks.support_y)
    assert torch.allclose(adapted(tasks.query_x, norm), evaluated(setup, maml, tasks, Norm[norm]), atol=1e-5)
    assert (adapted(tasks.query_x, norm) - adapted(tasks.query_x)).abs().max() > 1e-3
    with pytest.raises(UserError, match=r"norm=suport: must be one of .*did you mean support"):
        adapted(tasks.query_x, "suport")


def test_labels_of_any_kind_and_examples_in_any_order(maml: Learner) -> None:
    tasks = drawn(with_data(maml))
    x, numbers, queries = tasks.support_x[0], tasks.support_y[0], tasks.query_x[0]
    names = ["pear", "apple", "fig"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    named = maml.adapt(x[order], [names[i] for i in numbers[order]])
    assert named.classes == ["apple", "fig", "pear"]
    plain = maml.adapt(x.numpy(), (numbers * 10).numpy())
    assert plain.classes == [0, 10, 20]
    chance = plain.predict_proba(queries)
    # another order of the classes is another output for each, so only the same order gives the same numbers
    again = maml.adapt(list(x[order]), [int(i) * 10 for i in numbers[order]])
    assert np.allclose(again.predict_proba(queries), chance, atol=1e-5)
    assert list(plain.predict(queries)) == [10 * i for i in chance.argmax(1)]
    assert set(named.predict(queries)) <= set(names)


def test_what_a_notebook_shows_is_a_line(maml: Learner) -> None:
    one = maml.adapt(torch.rand(6, 1, 28, 28), [0, 0, 1, 1, 2, 2], steps=2)
    two = maml.adapt(torch.rand(2, 3, 1, 28, 28), [[0, 1, 2]] * 2, steps=2)
    names = maml.record.names
    shown = f"{maml.run}: {names['algo']}, {names['model']}, 3-way, inputs [1, 28, 28], meta-iteration {maml.step}"
    assert repr(maml) == f"Learner({shown})"
    assert repr(one) == f"Adapted({maml.run}: 3 classes, 6 support examples, 2 inner steps)"
    assert repr(two) == f"Adapted({maml.run}: 2 tasks of 3 classes, 3 support examples, 2 inner steps)"


def test_classes_of_one_example_and_of_several(maml: Learner) -> None:
    tasks = drawn(with_data(maml))
    x = tasks.support_x[0, [0, 2, 3, 4]]
    adapted = maml.adapt(x, [0, 1, 1, 2])
    frozen = adapted.module()
    assert adapted.predict_proba(tasks.query_x[0]).shape == (6, 3)
    assert torch.allclose(frozen(tasks.query_x[0, :1])[0], frozen(tasks.query_x[0])[0], atol=1e-5)


def test_steps(maml: Learner) -> None:
    tasks = drawn(with_data(maml))
    x, y = tasks.support_x[0], tasks.support_y[0]
    assert maml.adapt(x, y).steps == maml.setup.experiment.algo.eval_inner_steps
    before, after = maml.adapt(x, y, steps=0), maml.adapt(x, y, steps=2)
    heads = [module.get_parameter("head.weight") for module in (maml.module(), before.module(), after.module())]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_the_initialisation_is_the_checkpoints(maml: Learner) -> None:
    saved = checkpoint.read(checkpoint.folder(maml.run) / checkpoint.BEST)["meta"]
    module = maml.module()
    assert saved.keys() == maml.state_dict().keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(saved[name], p) for name, p in module.named_parameters())


@pytest.mark.full
def test_prototypes_and_new_heads_take_any_way(tmp_path: Path) -> None:
    for algo in ("protonet", "pretrain"):
        learner = metarun.load(short_run(tmp_path / algo, f"algo={algo}", *OF_ALGO.get(algo, SMALL)), device="cpu")
        assert learner.way is None
        tasks = drawn(with_data(learner), way=4)
        adapted = learner.adapt(tasks.support_x[0], ["a", "b", "c", "d", "a", "b", "c", "d"])
        x = tasks.query_x[0]
        assert adapted.predict_proba(x).shape == (len(x), 4)
        assert supervised(learner.setup.problem, "").way == 3
        again = metarun.load_adapted(adapted.save(tmp_path / f"{algo}.pt"), device="cpu")
        assert torch.equal(again(x), adapted(x)) and again.classes == adapted.classes


def test_a_kept_task_is_the_same(maml: Learner, tmp_path: Path) -> None:
    tasks = drawn(with_data(maml))
    adapted = maml.adapt(tasks.support_x[0], ["x", "y", "z", "x", "y", "z"])
    again = metarun.load_adapted(adapted.save(tmp_path / "model"), device="cpu")
    x = tasks.query_x[0]
    assert again.classes == ["x", "y", "z"] and again.steps == adapted.steps
    for norm in ("support", "support_plus_one", "transductive"):
        assert torch.equal(again(x, norm), adapted(x, norm))


WRONG = {  # what is given -> words of the one line
    "way": "support: has 2 classes (0, 1): must be 3, the way that this run's head has",
    "one": "support: has 1 classes (0): must be 3",
    "labels": "y: has shape (5,), and there are (6,) examples",
    "no labels": "y: is missing",
    "shape": "x: has shape (6, 27, 28), and examples of this run have (..., 1, 28, 28)",
    "values": "x: its values are 0..255; an image of this run is bytes (uint8), or numbers 0..1",
    "nan": "x: has values that are not finite",
    "real labels": "y: must be texts or whole numbers",
    "steps": "steps=-1: must be >= 0",
    "folder": "support=nowhere: is no folder",
    "file": "nothing.png: unreadable image",
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(maml: Learner, case: str) -> None:
    x, y = torch.rand(6, 1, 28, 28), torch.tensor([0, 0, 1, 1, 2, 2])
    calls = {
        "way": lambda: maml.adapt(x, [0, 0, 0, 1, 1, 1]),
        "one": lambda: maml.adapt(x, [0] * 6),
        "labels": lambda: maml.adapt(x, y[:5]),
        "no labels": lambda: maml.adapt(x),
        "shape": lambda: maml.adapt(x[:, 0, 1:], y),
        "values": lambda: maml.adapt(torch.cat([0 * x[:1], 255 * (x[1:] > 0.5)]), y),
        "nan": lambda: maml.adapt(x / 0, y),
        "real labels": lambda: maml.adapt(x, y / 7),
        "steps": lambda: maml.adapt(x, y, steps=-1),
        "folder": lambda: maml.adapt("nowhere"),
        "file": lambda: maml.adapt(["nothing.png"] * 6, y),
    }
    with pytest.raises(UserError) as error:
        calls[case]()
    assert WRONG[case] in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_value_in_a_batch_names_the_task(maml: Learner) -> None:
    x = torch.rand(2, 6, 1, 28, 28)
    with pytest.raises(UserError, match="y: class 2 has no example; every task must have examples of every class"):
        maml.adapt(x, [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]])
    batch = maml.adapt(x, [[0, 0, 1, 1, 2, 2]] * 2)
    for refused in (batch.module, lambda: batch.save("x"), lambda: batch(x[:1])):
        with pytest.raises(UserError, match=r"batch of tasks|must have \[2, B"):
            refused()


def test_bytes_are_images(maml: Learner) -> None:
    x = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8)
    y = [0, 0, 1, 1, 2, 2]
    assert torch.equal(maml.adapt(x, y)(x), maml.adapt(x.float() / 255, y)(x.numpy()))


def test_mann_needs_equally_many_of_each(tmp_path: Path) -> None:
    learner = metarun.load(short_run(tmp_path / "run", "algo=mann", *OF_ALGO["mann"]), device="cpu")
    with pytest.raises(UserError, match="1 to 2 examples a class; algo=mann needs equally many"):
        learner.adapt(torch.rand(4, 1, 28, 28), [0, 1, 1, 2])
