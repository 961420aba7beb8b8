"""What an exported folder says of its network: ``config.json``, ``classes.json`` and the card, ``README.md``."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun import __version__
from metarun.config.overrides import only_training_reads
from metarun.core.batch_norm import Mixing, Norm
from metarun.errors import one_line
from metarun.learner.adapted import Adapted
from metarun.learner.formats import LOAD, NETWORK, Format
from metarun.learner.inputs import Label
from metarun.learner.learner import Learner
from metarun.results import result_file
from metarun.results.grid import Grid
from metarun.results.report import Report
from metarun.results.result import Result
from metarun.runs.folder import RESULT
from metarun.runs.record import Record

MOST = 40  # classes that the card lists
FREE = ("device", "eval.select", "dataset.delimiter")  # settings that one use of a run's parameters may change


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a reader must know to use the network.

    Attributes:
        of: where it is from.
        format: how it is stored.
        classes: the classes in the order of the outputs; None: outputs stand for none.
        inputs: name of a fact about the inputs -> value.
        outputs: the same of the outputs.
    """

    of: Adapted | Learner
    format: Format
    classes: list[Label] | None
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    @staticmethod
    def of_network(of: Adapted | Learner, format: Format, x: Tensor, y: Tensor) -> Facts:
        """Collect them.

        Args:
            of: where the network is from.
            format: how it is stored.
            x: [B, ...] examples.
            y: [B, D] their outputs.
        """
        dataset, learned = of.setup.experiment.dataset, of.learned
        classes: list[Label] | None = None
        if isinstance(of, Adapted):
            classes = of.classes
        elif learned and learned.classes:
            classes = [*learned.classes]
        inputs, outputs = _form(x), _form(y)
        if dataset.has_pictures():
            inputs["what"] = "pictures, bytes / 255"
            inputs["reading"] = dataset.reading
        elif learned:
            own = "; the network normalises them itself" if learned.x else ""
            inputs["what"] = f"rows as they are in the user's file{own}"
            inputs["columns"] = learned.inputs or None
        else:
            inputs["what"] = f"examples as dataset={of.record.names['dataset']} makes them"
        if not dataset.has_way:
            outputs["what"] = "numbers, in the units of the user's file" if learned else "numbers"
            outputs["columns"] = learned.targets if learned else None
        elif y.shape[1] == 1:
            outputs["what"] = "one logit, whose sigmoid is the probability of the second class"
        elif classes:
            outputs["what"] = "logits, whose softmax is the probability of each class"
        else:
            outputs["what"] = "logits, which stand for no class before the network is adapted"
        return Facts(of=of, format=format, classes=classes, inputs=inputs, outputs=outputs)

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        of, adapted = self.of, None
        if isinstance(of, Adapted):
            adapted = {
                "inner_steps": of.steps,
                "support_examples": len(of.support.support_y[0]),
                "batch_norm": _statistics(of),
            }
        return {
            "format": self.format.name,
            "file": self.format.value,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "adapted": adapted,
            "run": {"config_hash": of.record.hash(), "names": of.record.names, "settings": of.record.identity()},
            "versions": {"metarun": __version__, "torch": torch.__version__},
        }

    def metadata(self) -> dict[str, str]:
        """Return the facts that a safetensors file takes along, as texts."""
        facts = {"classes": self.classes, "inputs": self.inputs, "outputs": self.outputs}
        return {"format": "pt", **{key: json.dumps(value) for key, value in facts.items()}}


def _form(values: Tensor) -> dict[str, Any]:
    """Shape and type of a batch."""
    return {"shape": ["B", *values.shape[1:]], "type": str(values.dtype).removeprefix("torch.")}


def text(facts: Facts, command: list[str], apart: float) -> str:
    """Write the card: what the network is, how it is used, what was measured of it, and its limits.

    Args:
        facts: the facts.
        command: the words that were typed after ``metarun``; none where it was no command.
        apart: largest difference between the outputs of what was written and the original, relative to the largest.
    """
    of, names = facts.of, facts.of.record.names
    result = _result(of)
    made = f"{names['algo']} on {names['dataset']}, {names['model']}"
    if isinstance(of, Adapted):
        count = len(of.support.support_y[0])
        classes = f" of {len(of.classes)} classes" if of.classes else ""
        title = f"{made}: adapted to {count} support examples{classes}"
        about = f"A frozen network: the initialisation of a run, after {of.steps} inner steps on these examples."
    else:
        title = f"{made}: initialisation"
        about = "The initialisation of a run: the network with the meta-parameters, before it is adapted to a task."
    lines = [
        *("---", f"library_name: {'onnx' if facts.format is Format.onnx else 'pytorch'}"),
        *(f"tags: [few-shot, meta-learning, {names['algo']}]", "---", f"# {title}", "", about, ""),
        *("## Use", "", "```", f"python -i {LOAD}", "```", ""),
        *(f"`{LOAD}` needs {facts.format.needs}, and not metarun. `network(x)` takes and returns:", ""),
        *(
            Grid(["", "shape", "type", "what"], [_row("x", facts.inputs), _row("outputs", facts.outputs)]).markdown(),
            "",
        ),
    ]
    if reading := facts.inputs.get("reading"):
        lines += [f"Picture files were read so, and others must be: {reading}; bytes / 255.", ""]
    if facts.classes:
        shown = [one_line(str(name)) for name in facts.classes[:MOST]]
        more = f" and {len(facts.classes) - MOST} more" if len(facts.classes) > MOST else ""
        lines += [f"Classes, in the order of the outputs (`classes.json`): {', '.join(shown)}{more}.", ""]
    if facts.format in (Format.state_dict, Format.safetensors):
        lines += [f"`{NETWORK}` is the network in torch's own layers.", ""]
    lines += [f"Loaded again after writing, its outputs differ by at most {apart:.1g} of the largest.", ""]
    lines += _measured(of, result)
    lines += ["## Limits", "", *(f"- {limit}" for limit in _limits(of, result)), ""]
    before = _run(of)
    commands = [shlex.join(["metarun", *words]) for words in (before.command if before else [], command) if words]
    if commands:
        lines += ["## Commands", "", "```", *commands, "```", ""]
    return "\n".join(lines)


def _row(name: str, facts: dict[str, Any]) -> list[str]:
    columns = ", ".join(facts.get("columns") or [])
    what = f"{facts['what']}{f' ({columns})' if columns else ''}"
    return [name, f"[{', '.join(map(str, facts['shape']))}]", facts["type"], what]


def _run(of: Adapted | Learner) -> Record | None:
    """The run's record in its folder, where that is still there, and not another run in its place."""
    before = Record.read(Path(of.run))
    if before is None:
        return None
    was, now, algo = before.identity(), of.record.identity(), type(of.setup.experiment.algo)
    for key in was.keys() & now.keys():
        free = key.startswith((*FREE, *(() if only_training_reads(key, algo) else ("algo.",))))
        if was[key] != now[key] and not free:
            return None
    return before


def _result(of: Adapted | Learner) -> Result | None:
    """The run's result, where it was tested and its folder is still there."""
    path = Path(of.run) / RESULT
    return result_file.read(path) if path.exists() and _run(of) else None


def _statistics(of: Adapted | Learner) -> str | None:
    """Whose statistics the network's batch norm uses; None where it has none."""
    if of.setup.mixing is Mixing.none:
        return None
    return "of the support set" if isinstance(of, Adapted) else "of each batch, in eval() too"


def _measured(of: Adapted | Learner, result: Result | None) -> list[str]:
    """The part of the card with the run's test."""
    if result is None:
        said = f"There is no result of this run in {one_line(str(of.run))}: it was not tested, or is elsewhere."
        return ["## What was measured", "", said, ""]
    # an ensemble was tested beside this network, which is one of its members
    protocol = {key: value for key, value in result.protocol.items() if key != "ensemble"}
    alone = [score for score in result.scores if score.ensemble == 1]
    report = Report.of(replace(result, protocol=protocol, scores=alone), Path(of.run), [])
    lines = ["## What was measured", "", "The initialisation, adapted to each of the run's test tasks:", ""]
    lines += [report.scores.markdown(), "", *(line for note in report.notes for line in (note, ""))]
    was, now = (
        {key: value for key, value in settings.items() if not key.startswith("device")}
        for settings in (result.config, of.record.identity())
    )
    if changed := [
        f"{key} {now.get(key)} (tested: {was.get(key)})" for key in {**was, **now} if was.get(key) != now.get(key)
    ]:
        lines += [f"This network was made with other settings: {'; '.join(changed)}.", ""]
    facts = [[key, value] for key, value in report.protocol.items()]
    return [*lines, Grid(["protocol", ""], facts).markdown(), ""]


def _limits(of: Adapted | Learner, result: Result | None) -> list[str]:
    limits = []
    norms = {score.norm for score in result.scores} if result else set()
    if isinstance(of, Adapted):
        limits.append(
            "The numbers above are of other tasks: this support set and the network made of it were not tested."
        )
        if _statistics(of):
            limits.append(
                "Batch norm uses the statistics of the support set, so an output depends on its own example alone."
            )
            if result and Norm.support not in norms:
                limits.append(
                    "None of the numbers above is for these statistics: `metarun eval run=RUN eval.norm=support`."
                )
        if not of.setup.experiment.dataset.fixed_labels and of.classes is not None:
            limits.append("It knows the classes of its support set and no others: any input gets one of them.")
    else:
        limits.append("It is made to be adapted; its outputs before that are no predictions.")
        if _statistics(of):
            limits.append(
                "Batch norm uses the statistics of each batch, in `eval()` too, so outputs depend on the whole batch."
            )
        if others := [name for name in of.meta.flat() if name not in of.meta.model]:
            few = ", ".join(others[:3]) + (", ..." if others[3:] else "")
            limits.append(f"The method also learned numbers that are not the network's, and not in this folder: {few}.")
    if result and Norm.transductive in norms and _statistics(of):
        limits.append(
            "A transductive number is measured with the statistics of a whole query set, of equally many examples a "
            "class; it says nothing about single examples."
        )
    return [*limits, "Choose a licence: what the network was trained on may say which."]
