"""One test for each name that metarun borrows: which is gone, or does not take what it is given, is said by name."""

from __future__ import annotations

import ast
import datetime
import importlib
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.overrides import get_testing_overrides
from tqdm import tqdm

import metarun.compat
from metarun.compat.omegaconf import has_keys, node_of
from metarun.compat.torch_ranks import meet
from metarun.compat.torch_tracing import foreseen, tracer, writes
from metarun.compat.tqdm import start_interval

# name: the arguments that metarun gives, in their order where they have no names there
BORROWED = {
    "torch.utils._pytree.tree_flatten": ["tree"],
    "torch.utils._pytree.tree_iter": ["tree"],
    "torch.utils._pytree.tree_leaves": ["tree"],
    "torch.utils._pytree.tree_map": ["func", "tree", "rests"],
    "torch.utils._pytree.tree_unflatten": ["leaves", "treespec"],
    "torch.utils._python_dispatch.TorchDispatchMode": [],
    "torch.overrides.has_torch_function_unary": [],
    "torch.nn.parameter.is_lazy": ["param"],
    "torch._C._functorch.is_functorch_wrapped_tensor": [],
    "torch.Tensor._version": [],
    "torch.distributed.rendezvous": ["url", "timeout"],
    "torch.distributed.PrefixStore": [],
    "torch._ops.OpOverload": [],
    "torch._ops.OpOverload.overloadpacket": [],
    "torch.fx.experimental.proxy_tensor.make_fx": [
        *("f", "tracing_mode", "_allow_non_fake_inputs", "_disable_torch_fn_metadata_mode")
    ],
    "torch._functorch.compile_utils.fx_graph_cse": ["fx_g"],
    "torch._inductor": [],
    "torch._inductor.compile": ["gm", "example_inputs", "options"],
    "torch._subclasses.fake_tensor": [],
    "torch._subclasses.fake_tensor.DataDependentOutputException": [],
    "torch._subclasses.fake_tensor.DynamicOutputShapeException": [],
    "torch._subclasses.fake_tensor.UnsupportedOperatorException": [],
    "torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode": [],
    "hydra.version.setbase": ["ver"],
    "hydra.version.VersionBase": [],
    "hydra.version.VersionBase.instance": [],
    "hydra._internal.utils._run_hydra": ["args", "args_parser", "task_function", "config_path", "config_name"],
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper": [],
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper.split_arguments": ["overrides", "max_batch_size"],
    "hydra._internal.hydra.Hydra": [],
    "hydra._internal.hydra.Hydra.create_main_hydra2": ["task_name", "config_search_path"],
    "hydra._internal.utils.create_config_search_path": ["search_path_dir"],
    "hydra._internal.utils.get_args_parser": [],
    "hydra.core.config_search_path.ConfigSearchPath.prepend": ["self", "provider", "path", "anchor"],
    "hydra.core.config_search_path.SearchPathQuery": ["provider"],
    "hydra._internal.config_loader_impl.ConfigLoaderImpl": ["config_search_path"],
    "hydra._internal.config_repository.ConfigRepository": ["config_search_path"],
    "hydra._internal.config_repository.ConfigRepository.get_group_options": ["self", "group_name", "results_filter"],
    "hydra.core.object_type.ObjectType": [],
    "hydra.core.object_type.ObjectType.GROUP": [],
    "hydra.core.config_store.ConfigNode": ["name", "node", "group", "package", "provider"],
    "hydra.core.config_store.ConfigStore": [],
    "hydra.core.config_store.ConfigStore.instance": [],
    "hydra.core.global_hydra.GlobalHydra": [],
    "hydra.core.global_hydra.GlobalHydra.instance": [],
    "hydra.core.global_hydra.GlobalHydra.clear": ["self"],
    "hydra.core.global_hydra.GlobalHydra.config_loader": ["self"],
    "hydra.core.hydra_config.HydraConfig": [],
    "hydra.core.hydra_config.HydraConfig.get": [],
    "hydra.core.override_parser.overrides_parser.OverridesParser": [],
    "hydra.core.override_parser.overrides_parser.OverridesParser.create": ["config_loader"],
    "hydra.core.override_parser.overrides_parser.OverridesParser.parse_overrides": ["self", "overrides"],
    "hydra.core.override_parser.types.IntervalSweep": ["start", "end"],
    "hydra.core.override_parser.types.Override": ["key_or_group", "package", "input_line"],
    "hydra.core.override_parser.types.Override.is_add": ["self"],
    "hydra.core.override_parser.types.Override.is_delete": ["self"],
    "hydra.core.override_parser.types.Override.is_interval_sweep": ["self"],
    "hydra.core.override_parser.types.Override.is_sweep_override": ["self"],
    "hydra.core.override_parser.types.Override.sweep_iterator": ["self"],
    "hydra.core.override_parser.types.Override.sweep_string_iterator": ["self"],
    "hydra.core.override_parser.types.Override.value": ["self"],
    "omegaconf.DictConfig._get_node": ["self", "key"],
    "omegaconf.DictConfig._is_missing": ["self"],
    "omegaconf.DictConfig._is_none": ["self"],
    "omegaconf.OmegaConf.register_new_resolver": ["name", "resolver", "replace"],
}
PUBLIC = {"torch.Tensor", "torch.fx.Graph", "torch.fx.GraphModule", "torch.fx.Node"} | {
    "omegaconf.DictConfig",
    "omegaconf.OmegaConf",
}


def resolved(name: str) -> Any:
    """The object of a dotted name; fails with what is missing."""
    module, *rest = name.split(".")
    found: Any = importlib.import_module(module)
    for at, attribute in enumerate(rest):
        if not hasattr(found, attribute):
            try:
                importlib.import_module(".".join([module, *rest[: at + 1]]))
            except ImportError:
                pytest.fail(f"{name} is gone: no {attribute} in {'.'.join([module, *rest[:at]])}")
        found = getattr(found, attribute)
    return found


@pytest.mark.parametrize("name", BORROWED)
def test_borrowed(name: str) -> None:
    found, given = resolved(name), BORROWED[name]
    if given:
        parameters = inspect.signature(found).parameters
        by_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        lacking = [argument for argument in given if argument not in parameters and not by_name]
        assert not lacking, f"{name} takes {', '.join(parameters)}; not {', '.join(lacking)}"
        required = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if not inspect.isclass(found):
            assert set(required) <= set(given), f"{name} wants {', '.join(required)}"


def imported(path: Path) -> set[str]:
    """What a file of compat imports from torch, Hydra and OmegaConf; modules, where that is all that it names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "hydra", "omegaconf"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_borrowed_name_has_a_test() -> None:
    folder = Path(metarun.compat.__file__).parent
    names = set[str]().union(*map(imported, folder.glob("*.py")))
    assert names - PUBLIC - set(BORROWED) == set()
    assert len(names - PUBLIC) > 20


def test_an_operator_says_whether_it_writes() -> None:
    """``target._schema.is_mutable`` and ``node.meta["val"]``, of a graph's nodes."""
    nodes = [n for n in tracer(lambda x: (x * 2).add_(1))(torch.ones(3)).graph.nodes if n.op == "call_function"]
    assert [writes(node) for node in nodes] == [False, True]
    assert all(foreseen(node).shape == (3,) for node in nodes)


def test_functions_that_a_mode_replaces_take_what_is_handed_over() -> None:
    """kernels/mode.py and core/batch_norm.py know these by identity and repeat their arguments in order."""
    assert F.conv2d is torch.conv2d
    overrides: dict[Any, Any] = get_testing_overrides()
    of = {fn: list(inspect.signature(overrides[fn]).parameters) for fn in (torch.conv2d, torch.batch_norm)}
    assert of[torch.conv2d] == ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    start = ["input", "weight", "bias", "running_mean", "running_var"]
    assert of[torch.batch_norm] == [*start, "training", "momentum", "eps", "cudnn_enabled"]
    start = ["input", "running_mean", "running_var", "weight", "bias"]
    assert list(inspect.signature(F.batch_norm).parameters) == [*start, "training", "momentum", "eps"]


def test_nodes_of_omegaconf() -> None:
    cfg = OmegaConf.create({"group": {"a": 1}, "none": None, "missing": "???", "of": "${nowhere}", "empty": {}})
    assert [name for name in cfg if has_keys(node_of(cfg, str(name)))] == ["group", "empty"]


def test_a_line_of_tqdm_begins_a_new_interval() -> None:
    bar = tqdm(total=3, file=io.StringIO())
    bar.last_print_t = 0
    start_interval(bar)
    assert bar.last_print_t > bar.start_t - 1


def test_ranks_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**words, "TORCHELASTIC_RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(name, value)
    store, rank, world = meet(datetime.timedelta(seconds=10))
    assert (rank, world, store.add("told", 1)) == (0, 1, 1)
