"""torch.compile and CUDA graphs, and when they pay.

A compiled function is one kernel where eager code is dozens of calls; a captured one is replayed by the GPU without the
CPU's part. Both want fixed shapes and no host sync.
"""

import gc
import logging
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["PLAIN", "CompileWish", "Execution", "GraphedCall", "compiled", "resolve_execution"]

CompileWish = Literal["auto", "none", "default", "reduce-overhead"]

LEAST_TIMESTEPS: Final = 4_000_000
"""Where a run has won the time of a cold compilation back. On an H100 it took 13 to 47 s, and captured steps are fast
uncompiled, too."""
NUM_WARMUPS: Final = 3
"""Calls before a capture, as torch asks for; they are calls like any other."""

ResultT = TypeVar("ResultT")


class Execution(NamedTuple):
    """How a learner's repeated functions are executed.

    Attributes:
        is_compiled: they are compiled.
        uses_graphs: they are captured as CUDA graphs of ours, compiled or not.
    """

    is_compiled: bool
    uses_graphs: bool

    @property
    def is_plain(self) -> bool:
        """Whether they are called as they are written; else their shapes must not vary."""
        return not (self.is_compiled or self.uses_graphs)


PLAIN: Final = Execution(is_compiled=False, uses_graphs=False)


def resolve_execution(
    wish: CompileWish,
    device: torch.device,
    timesteps: int,
    *,
    is_image: bool,
    wants_graphs: bool,
    is_alone: bool,
) -> Execution:
    """Turn what the configuration asks for into what is done; `auto` into what is faster over the whole run.

    Args:
        wish: for compiling. reduce-overhead is compiled and captured by us: torch's own mode of that name captures no
            step that changes parameters in place.
        device: where the networks are.
        timesteps: of the whole run.
        is_image: convolutions gain nothing on a CPU: their time is spent in kernels that are not ours.
        wants_graphs: capture where it is possible.
        is_alone: in one process; several talk to each other inside a gradient step, which can then be neither.
    """
    if not is_alone:
        return PLAIN
    if wish == "auto":
        pays = timesteps >= LEAST_TIMESTEPS and (device.type == "cuda" or not is_image)
        wish = "default" if pays else "none"
    captures = wants_graphs or wish == "reduce-overhead"
    return Execution(wish != "none", captures and device.type == "cuda")


def compiled(method: Callable[..., ResultT], execution: Execution, device: torch.device) -> Callable[..., ResultT]:
    """Compile a bound method whose arguments keep their shapes, at its first call, if that is how it is executed.

    Where torch cannot (no C++ compiler, a kernel that Triton refuses) it stays as it is, and that is logged.

    On a CPU, what the method reads of its object is taken for constant, but for the contents of tensors: to check it
    all would take as long as a small network. Arguments are checked.

    Args:
        method: of an object that will not be changed; no host sync inside.
        execution: whether to compile.
        device: where the tensors are; on a CPU the calls between kernels are compiled, too.
    """
    if not execution.is_compiled:
        return method
    options: dict[str, Any] = {}
    if device.type == "cpu":
        options = {"guard_filter_fn": _keep_arguments, "cpp_wrapper": True}
    function = torch.compile(_own_copy(method), fullgraph=True, dynamic=False, options=options)
    return _CompiledIfPossible(function, method)


class _CompiledIfPossible(Generic[ResultT]):
    """What torch.compile has made of a function, until it fails: nothing of a call is done before its compilation."""

    def __init__(self, function: Callable[..., ResultT], plain: Callable[..., ResultT]) -> None:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import, which plain code is spared

        self._function, self._plain, self._failure = function, plain, TorchDynamoException

    def __call__(self, *arguments: Any) -> ResultT:
        try:
            return self._function(*arguments)
        except self._failure as error:
            name = getattr(self._plain, "__qualname__", repr(self._plain))
            logging.getLogger(__name__).warning("%s", _told(name, error))
            self._function = self._plain
            return self._plain(*arguments)


def _told(name: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("backend=", "Set TORCH", "For even more"))]
    causes = [line for line in said if "Error: " in line] or said[:2] or [type(error).__name__]
    return (
        f"torch {torch.__version__} cannot compile {name} and it runs as it is, more slowly: "
        f"{causes[-1].rstrip('.')}. --hardware.compile none does not try."
    )


def _own_copy(method: Any) -> Any:
    """The same method with code of its own: torch keeps what it has compiled with the code, for all objects alike."""
    function = method.__func__
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return types.MethodType(copy, method.__self__)


def _keep_arguments(guards: Sequence[Any]) -> list[bool]:
    return [guard.guard_type == "TENSOR_MATCH" and not guard.name.startswith("L['self']") for guard in guards]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Another graph that is freed during a capture, as part of some garbage, would break the capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class GraphedCall:
    """A function of tensors, captured as a CUDA graph after a few plain calls.

    Inputs are copied to where the graph reads them; whatever else the function reads or writes must keep its place in
    memory. The outputs are overwritten by the next call.

    Args:
        function: takes tensors of fixed shapes and returns one; no host sync inside.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._num_calls = 0
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function, or replay it."""
        if self._num_calls < NUM_WARMUPS:
            self._num_calls += 1
            return self._warm_up(*inputs)
        if self._graph is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._graph = torch.cuda.CUDAGraph()
            with _no_garbage_collection(), torch.cuda.graph(self._graph):
                self._output = self._function(*self._inputs)
        for place, tensor in zip(self._inputs, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        self._graph.replay()
        assert self._output is not None
        return self._output

    def _warm_up(self, *inputs: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = self._function(*inputs)
        current.wait_stream(self._stream)
        return output
