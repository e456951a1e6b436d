"""Graphs of TorchScript archives: the code of ``forward``, with that of all methods that it calls.

The code is Python text. ``ast`` parses it, and it is evaluated here with unknown tensors: calls of the archive's own
methods and functions are followed, numbers, texts and lists are computed, conditions that they decide are decided, and
each operator on a tensor becomes nodes of ``aten``. Of a condition that depends on a tensor's values both branches are
read, and a tensor that differs between them is one that nothing is known about; so is one that a loop changes whose
length is not known. A module is read as at inference: ``training`` is false. The code does not say how many axes its
inputs have; 4 are assumed where it depends on them, or 3, 5 or 2 where it raises an exception for 4.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..formats._base import refuse
from ..formats._pickle import Tensor
from ..formats.torchscript import SCRIPT, Archive, ScriptObject
from .aten import COPIES, UNKNOWN, Builder, Ref, find_refs
from .graph import Graph

ASSUMED_AXES = (4, 3, 5, 2, None)
"""Numbers of axes of an input, in the order in which they are tried; None is an unknown one."""
MAX_STEPS = 1_000_000
"""Expressions that are evaluated, each call of a method anew; those of a network with 300 layers are 20,000."""
MAX_CALLS = 60
"""Calls within calls."""
MAX_BRACKETS = 80
MAX_CHAIN = 100
"""Elements of one chain such as ``a.b.c``."""
MAX_INTEGER = 1 << 63
MAX_LENGTH = 1000
"""Elements of a list or text with which the code computes."""
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
LONG_CHAIN = re.compile(
    rf"(?:\.\s*\w+\s*){{{MAX_CHAIN},}}|(?:\[[^\[\]\n]*\]\s*|\([^()\n]*\)\s*){{{MAX_CHAIN},}}"
    rf"|(?:(?:\bnot\b|[-+~])\s*){{{MAX_CHAIN},}}"
)
"""What Python's parser turns into a tree that is too deep."""
ROOTS = ("torch", "ops", SCRIPT, "CONSTANTS")
NO_TENSOR = {
    "size", "numel", "dtype", "device", "is_floating_point", "is_complex", "is_cuda", "is_quantized", "format", "warn",
    "percentFormat", "item", "Int", "Bool", "Float", "NumToTensor", "stride", "storage_offset", "get_device", "layout",
    "str", "print", "is_scripting", "is_grad_enabled", "is_contiguous", "is_autocast_enabled", "is_nonzero",
    "requires_grad", "IntImplicit", "FloatImplicit", "ScalarImplicit", "equal", "allclose", "ImplicitTensorToNum",
}  # fmt: skip
"""Operators whose result is no tensor, and is not known."""
SAME_RANK = {
    "relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "gelu", "leaky_relu", "elu",
    "mish", "add", "sub", "mul", "div", "clamp", "to", "contiguous", "clone", "detach", "dropout", "float", "half",
    "batch_norm", "linear", "pow", "sqrt", "exp", "neg", "abs", "isnan", "where", "softmax", "type_as", "prelu",
    "maximum", "minimum", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "pad",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "layer_norm", "cat", "slice", "permute",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "transpose", "channel_shuffle", "group_norm",
}  # fmt: skip
"""Operators whose result has as many axes as the first of their tensors."""
TUPLES = {"max", "min", "native_batch_norm", "native_dropout", "max_pool2d_with_indices"}
"""Operators with several results, of which the first is the one that matters."""


class _Uninitialized:
    """The value of a variable that no branch that is taken reads."""


class _Nothing:
    """What a block of statements returns that does not return."""


UNINITIALIZED, NOTHING = _Uninitialized(), _Nothing()


class _RaiseError(Exception):
    """The code raises an exception here."""


class _Dotted(str):
    """A name of an operator, a function or a class, with dots."""

    __slots__ = ()


def _guard(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse operands of which a computation takes long."""

    def compute(*operands: Any) -> Any:
        for operand in operands:
            if type(operand) in (str, list, tuple) and len(operand) > MAX_LENGTH:
                raise ValueError("a long operand")
            if type(operand) in (list, tuple) and any(type(part) in (list, tuple, dict) for part in operand):
                raise ValueError("lists within lists, which may take long to compare")
        result = function(*operands)
        if type(result) is int and abs(result) >= MAX_INTEGER:
            raise ValueError("a large number")
        return result

    return compute


def _count_range(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "sub": operator.sub, "div": operator.truediv, "floordiv": operator.floordiv,
    "remainder": operator.mod, "neg": operator.neg, "__not__": operator.not_, "__is__": operator.is_,
    "__isnot__": operator.is_not, "__contains__": operator.contains, "len": len, "min": min, "max": max,
    "__range_length": _count_range, "__derive_index": lambda index, start, step: start + index * step,
    "list": list, "__and__": operator.and_, "__or__": operator.or_, "floor": math.floor, "ceil": math.ceil,
    "Int": int, "Float": float, "Bool": bool, "sqrt": math.sqrt,
}  # fmt: skip
NUMBERS = {name: _guard(function) for name, function in _FUNCTIONS.items()}
"""Operators on numbers, texts and lists."""


def read_graphs(path: Path) -> list[Graph]:
    """Read the graph of a module's ``forward``, or of its other methods where it has no ``forward``.

    Raises:
        FileFormatError: the file is no TorchScript archive, is broken, or its code is too long or nested too deep.
    """
    try:
        for axes in ASSUMED_AXES:
            reader = _Reader(path, axes)
            if reader.read():
                break
        return [reader.builder.make_graph()]
    except RecursionError:
        refuse(path, "has code that is nested too deep", f"at most {MAX_CALLS} calls within calls")


class _Reader:
    def __init__(self, path: Path, axes: int | None) -> None:
        self.path, self.axes = path, axes
        self.archive = Archive(path)
        self.modules: dict[str, dict[str, ast.AST]] = {}
        self.methods: dict[str, dict[str, ast.FunctionDef]] = {}
        self.paths: dict[int, str] = {}
        constants: dict[str, np.ndarray] = {}
        self.refs: dict[int, Ref] = {}
        for name, value in self.archive.iterate_attributes():
            if isinstance(value, ScriptObject):
                self.paths.setdefault(id(value), name)
            elif isinstance(value, Tensor) and id(value) not in self.refs:
                constants[name] = self.archive.make_array(name, value)
                self.refs[id(value)] = Ref(name, len(value.shape))
        self.builder = Builder(constants)
        for name, tensor in self.archive.iterate_constants():
            constants[name] = array = self.archive.make_array(name, tensor, is_constant=True)
            self.refs[id(tensor)] = Ref(name, len(tensor.shape))
            self.builder.literals |= {name} if array.size == 1 else set()
        self.copies: dict[str, Ref] = {}
        """Tensors that have the values of another, each with that other."""
        self.steps = self.calls = self.unsure = 0

    def read(self) -> bool:
        """Evaluate the module's methods; whether any of them ends without an exception."""
        root = self.archive.root
        methods = self.find_methods(root.type)
        names = ["forward"] if "forward" in methods else [name for name in methods if not name.startswith("__")]
        ended = not names
        for name in names:
            try:
                self.call_method(root, name, self.make_inputs(methods[name]), {})
                ended = True
            except _RaiseError:
                continue
        return ended

    def make_inputs(self, method: ast.FunctionDef) -> list[Any]:
        """Make a tensor for each parameter that is one; the others are unknown, but for those with defaults."""
        values: list[Any] = []
        parameters = _list_parameters(method)[1:]
        required = len(parameters) - len(method.args.defaults)
        for place, parameter in enumerate(parameters):
            kind = ast.unparse(parameter.annotation) if parameter.annotation is not None else ""
            if kind == "Tensor" or (place < required and kind == "Optional[Tensor]"):
                values.append(Ref(f"input {parameter.arg}", self.axes))
            elif place < required:
                values.append(UNKNOWN)
            else:
                break
        return values

    # Code

    def find_module(self, module: str) -> dict[str, ast.AST]:
        """Parse a module of the code, once; its functions and classes by name."""
        if module not in self.modules:
            source = self.archive.read_source(module)
            tree = ast.Module([], []) if source is None else parse(self.path, source)
            self.modules[module] = {
                node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
            }
        return self.modules[module]

    def find_definition(self, name: str) -> ast.AST | None:
        module, _, last = name.rpartition(".")
        return self.find_module(module).get(last)

    def find_methods(self, type_name: str) -> dict[str, ast.FunctionDef]:
        """Return the methods of a class of the code, by name."""
        if type_name not in self.methods:
            definition = self.find_definition(type_name)
            body = definition.body if isinstance(definition, ast.ClassDef) else []
            self.methods[type_name] = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        return self.methods[type_name]

    def find_attribute(self, owner: ScriptObject, name: str) -> Any:
        """Return an attribute of an object, or a constant of its class."""
        if name == "training":
            return False
        if name in owner.attributes:
            return self.to_value(owner.attributes[name], owner, name)
        definition = self.find_definition(owner.type)
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        self.count(len(body))
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return self.evaluate(node.value, _Frame("")) if node.value is not None else UNKNOWN
        return UNKNOWN

    def to_value(self, item: Any, owner: ScriptObject, name: str) -> Any:
        """Return what stands for a value of the pickle: a ``Ref`` for a tensor, the value itself for others."""
        if isinstance(item, Tensor):
            if id(item) not in self.refs:  # in a list
                path = f"{self.paths.get(id(owner), '')}.{name}#{len(self.refs)}".strip(".")
                self.builder.constants[path] = self.archive.make_array(path, item)
                self.refs[id(item)] = Ref(path, len(item.shape))
            return self.refs[id(item)]
        if type(item) in (list, tuple):
            self.count(len(item))
            return type(item)(self.to_value(part, owner, name) if isinstance(part, Tensor) else part for part in item)
        return item

    # Calls

    def count(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            refuse(self.path, f"has code of more than {MAX_STEPS:,} steps", "the code of a network")

    def call_method(self, owner: ScriptObject, name: str, positional: list[Any], named: Mapping[str, Any]) -> Any:
        method = self.find_methods(owner.type).get(name)
        if method is None:
            return self.call_unknown(
                f"{owner.type}.{name}", [*positional, *named.values()], self.paths.get(id(owner), "")
            )
        return self.call_function(method, self.paths.get(id(owner), ""), [owner, *positional], named)

    def call_function(
        self, function: ast.FunctionDef, path: str, positional: list[Any], named: Mapping[str, Any]
    ) -> Any:
        """Follow a call; what it returns on no path is unknown."""
        self.calls += 1
        if self.calls > MAX_CALLS:
            refuse(self.path, "has calls within calls", f"at most {MAX_CALLS}")
        frame = _Frame(path)
        parameters = [parameter.arg for parameter in _list_parameters(function)]
        defaults = function.args.defaults
        self.count(len(parameters))
        for parameter, default in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True):
            frame.variables[parameter] = self.evaluate(default, frame)
        frame.variables |= dict(zip(parameters, positional, strict=False))
        frame.variables |= {key: value for key, value in named.items() if key in parameters}
        try:
            value = self.run(function.body, frame)
        finally:
            self.calls -= 1
        for earlier in frame.returned:
            value = earlier if value is NOTHING else self.merge(earlier, value, frame)
        return None if value is NOTHING else value

    def call_unknown(self, name: str, arguments: list[Any], path: str) -> Any:
        """Return what nothing is known about: a tensor, if one is among the arguments."""
        refs = self.list_tensors(arguments)
        if not any(isinstance(ref, Ref) for ref in refs):
            return UNKNOWN
        self.builder.name = f"{path}/{name}" if path else name
        result = self.new_ref(None)
        self.builder.add(name, refs, result.name)
        return result

    def list_tensors(self, arguments: list[Any]) -> list[Any]:
        """List the tensors of arguments and of their lists, and what is unknown."""
        for value in arguments:
            if type(value) in (list, tuple):
                self.count(len(value))
                for part in value:
                    self.count(len(part) if type(part) in (list, tuple) else 0)
        return [ref for value in arguments for ref in find_refs(value)]

    def new_ref(self, rank: int | None) -> Ref:
        return Ref(f"tensor {len(self.builder.nodes)}", rank)

    def call_operator(self, name: str, positional: list[Any], named: dict[str, Any], frame: "_Frame") -> Any:
        """Compute an operator on numbers, or add the nodes of one on tensors."""
        refs = self.list_tensors([*positional, *named.values()])
        match name, *positional:
            case ["RaiseException", *_]:
                raise _RaiseError
            case ["append", list(items), item]:
                items.append(UNKNOWN if self.unsure else item)
                return items
            case ["dim", Ref() as x]:
                return UNKNOWN if x.rank is None else x.rank
            case ["__is__" | "__isnot__", Ref(), None]:
                return name == "__isnot__"
            case ["unchecked_cast" | "data", value, *_]:
                return value
            case ["__getitem__", list() | tuple() as items, int(place)] if -len(items) <= place < len(items):
                return items[place]
            case ["len", list() | tuple() as items]:
                return len(items)
        tensors = [ref for ref in refs if isinstance(ref, Ref)]
        if name in NO_TENSOR and (tensors or UNKNOWN in refs or name not in NUMBERS):
            return UNKNOWN
        if not tensors:
            return UNKNOWN if refs else compute(name, positional)
        return self.add_nodes(name, positional, named, tensors, frame)

    def add_nodes(
        self, name: str, positional: list[Any], named: dict[str, Any], tensors: list[Ref], frame: "_Frame"
    ) -> Ref:
        base = name[:-1] if name.endswith("_") and not name.startswith("__") else name
        result = self.new_ref(_find_rank(base, positional, named, tensors))
        self.builder.name = f"{frame.path}/{base}" if frame.path else base
        self.builder.call(base, positional, named, result.name)
        if result.rank is not None and base.startswith(("conv", "_conv")):
            self.builder.shapes[result.name] = (-1,) * result.rank
        result.is_tuple = base.startswith("adaptive_max") or (base in TUPLES and not _is_pair(positional))
        if base in COPIES:
            self.copies[result.name] = self.copies.get(tensors[0].name, tensors[0])
        if (
            base != name
            and positional
            and isinstance(positional[0], Ref)
            and positional[0].name not in self.builder.constants
        ):
            written: Ref = positional[0]
            if self.unsure:  # it may have changed
                written.name = self.call_unknown("either", [written, result], frame.path).name
                return result
            written.name = result.name
            return written
        return result

    # Statements

    def run(self, body: list[ast.stmt], frame: "_Frame") -> Any:
        """Run statements; return what they return, or ``NOTHING``."""
        for statement in body:
            self.count()
            value = self.run_statement(statement, frame)
            if value is not NOTHING:
                return value
        return NOTHING

    def run_statement(self, statement: ast.stmt, frame: "_Frame") -> Any:
        match statement:
            case ast.Assign(targets=[target], value=value):
                self.assign(target, self.evaluate(value, frame), frame)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.assign(target, self.evaluate(value, frame), frame)
            case ast.Expr(value=value):
                self.evaluate(value, frame)
            case ast.Return(value=value):
                return None if value is None else self.evaluate(value, frame)
            case ast.If(test=test, body=body, orelse=other):
                condition = to_truth(self.evaluate(test, frame))
                if condition is UNKNOWN:
                    return self.run_both(body, other, frame)
                return self.run(body if condition else other, frame)
            case ast.For(target=target, iter=iterable, body=body):
                return self.run_loop(target, iterable, body, frame)
            case ast.While(body=body):
                return self.run_both(body, [], frame)
            case ast.With(body=body):
                return self.run(body, frame)
        return NOTHING

    def run_loop(self, target: ast.expr, iterable: ast.expr, body: list[ast.stmt], frame: "_Frame") -> Any:
        """Run a loop over a range or a list; where its length is unknown, once or not at all."""
        items: Any = UNKNOWN
        match iterable:
            case ast.Call(func=ast.Name(id="range"), args=[length]):
                count = self.evaluate(length, frame)
                items = range(count) if type(count) is int else UNKNOWN
            case _:
                items = self.evaluate(iterable, frame)
        if type(items) not in (list, tuple, range):
            self.assign(target, UNKNOWN, frame)
            return self.run_both(body, [], frame)
        for item in items:
            self.count()
            self.assign(target, item, frame)
            value = self.run(body, frame)
            if value is not NOTHING:
                return value
        return NOTHING

    def run_both(self, body: list[ast.stmt], other: list[ast.stmt], frame: "_Frame") -> Any:
        """Run two branches, and merge what they do to the variables."""
        before = frame.variables
        self.count(len(before))
        results: list[tuple[dict[str, Any], Any]] = []
        for branch in (body, other):
            frame.variables = dict(before)
            self.unsure += 1
            try:
                value = self.run(branch, frame)
            except _RaiseError:
                continue
            finally:
                self.unsure -= 1
            if value is NOTHING:
                results.append((frame.variables, value))
            else:
                frame.returned.append(value)
        frame.variables = before
        if not results:
            if frame.returned:
                return frame.returned.pop()
            raise _RaiseError
        first, *rest = (variables for variables, _ in results)
        for variables in rest:
            self.count(len(first))
            for name in first.keys() | variables.keys():
                values = first.get(name, UNINITIALIZED), variables.get(name, UNINITIALIZED)
                if values[0] is not values[1]:
                    first[name] = self.merge(*values, frame)
        frame.variables = first
        return NOTHING

    def merge(self, first: Any, second: Any, frame: "_Frame") -> Any:
        """Return what stands for one of two values."""
        if first is UNINITIALIZED or second is UNINITIALIZED:
            return second if first is UNINITIALIZED else first
        if isinstance(first, Ref) and isinstance(second, Ref):
            root = self.copies.get(first.name, first)
            if root.name == self.copies.get(second.name, second).name:
                return root
            return self.call_unknown("either", [first, second], frame.path)
        if type(first) is type(second) and type(first) in (int, float, str, bool) and first == second:
            return first
        if type(first) is tuple and type(second) is tuple and len(first) == len(second):
            self.count(len(first))
            return tuple(a if a is b else self.merge(a, b, frame) for a, b in zip(first, second, strict=True))
        refs = [value for value in (first, second) if isinstance(value, Ref)]
        return self.call_unknown("either", refs, frame.path) if refs else UNKNOWN

    def assign(self, target: ast.expr, value: Any, frame: "_Frame") -> None:
        match target:
            case ast.Name(id=name):
                frame.variables[name] = value
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                self.count(len(targets))
                for place, part in enumerate(targets):
                    self.assign(part, self.get_item(value, place, frame), frame)
            case ast.Attribute(value=owner, attr=name):
                holder = self.evaluate(owner, frame)
                if isinstance(holder, ScriptObject):
                    if self.unsure:
                        value = self.merge(self.find_attribute(holder, name), value, frame)
                    self.count(len(holder.attributes))
                    holder.attributes = {**holder.attributes, name: value}

    def get_item(self, value: Any, place: Any, frame: "_Frame") -> Any:
        if isinstance(value, Ref):
            if value.is_tuple and place == 0:
                return Ref(value.name, value.rank)
            return self.call_unknown("item", [value], frame.path)
        if type(value) in (list, tuple) and type(place) is int and -len(value) <= place < len(value):
            return value[place]
        if type(value) is dict and type(place) in (str, int, float, bool):
            return value.get(place, UNKNOWN)
        return UNKNOWN

    # Expressions

    def evaluate(self, node: ast.expr, frame: "_Frame") -> Any:
        """Compute an expression; what cannot be computed is ``UNKNOWN``."""
        self.count()
        match node:
            case ast.Constant(value=value):
                return value if type(value) in (int, float, str, bool, type(None)) else UNKNOWN
            case ast.Name(id=name):
                return frame.variables.get(name, _Dotted(name) if name in ROOTS else UNKNOWN)
            case ast.Attribute(value=owner, attr=name):
                return self.evaluate_attribute(self.evaluate(owner, frame), name)
            case ast.Call():
                return self.evaluate_call(node, frame)
            case ast.Tuple(elts=elements):
                return tuple([self.evaluate(element, frame) for element in elements])
            case ast.List(elts=elements):
                return [self.evaluate(element, frame) for element in elements]
            case ast.Subscript(value=owner, slice=place):
                return self.get_item(self.evaluate(owner, frame), self.evaluate(place, frame), frame)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return compute("neg", [self.evaluate(operand, frame)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                value = to_truth(self.evaluate(operand, frame))
                return UNKNOWN if value is UNKNOWN else not value
        return UNKNOWN

    def evaluate_attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, _Dotted):
            if owner == "CONSTANTS":
                return self.find_constant(name)
            return _Dotted(f"{owner}.{name}")
        return self.find_attribute(owner, name) if isinstance(owner, ScriptObject) else UNKNOWN

    def find_constant(self, name: str) -> Any:
        place = int(name[1:]) if re.fullmatch(r"c\d{1,9}", name) else -1
        if not 0 <= place < len(self.archive.constants):
            return UNKNOWN
        return self.to_value(self.archive.constants[place], self.archive.root, name)

    def evaluate_call(self, node: ast.Call, frame: "_Frame") -> Any:
        match node.func:
            case ast.Name(id="annotate" | "unchecked_cast") if len(node.args) == 2:
                return self.evaluate(node.args[1], frame)
            case ast.Name(id="uninitialized"):
                return UNINITIALIZED
        positional = [self.evaluate(argument, frame) for argument in node.args]
        named = {keyword.arg: self.evaluate(keyword.value, frame) for keyword in node.keywords if keyword.arg}
        match node.func:
            case ast.Name(id="getattr") if len(positional) == 2 and type(positional[1]) is str:
                return self.evaluate_attribute(positional[0], positional[1])
            case ast.Name(id="bool" | "int" | "float" as kind):
                return compute({"bool": "Bool", "int": "Int", "float": "Float"}[kind], positional)
            case ast.Attribute(value=owner, attr=name):
                holder = self.evaluate(owner, frame)
                if isinstance(holder, ScriptObject):
                    return self.call_method(holder, name, positional, named)
                function = self.evaluate_attribute(holder, name)
            case _:
                function = self.evaluate(node.func, frame)
        if isinstance(function, _Dotted):
            return self.call_dotted(function, positional, named, frame)
        return self.call_unknown("call", [*positional, *named.values()], frame.path)

    def call_dotted(self, name: _Dotted, positional: list[Any], named: dict[str, Any], frame: "_Frame") -> Any:
        """Call an operator, a function of the code, or a class of it."""
        parts = name.split(".")
        if parts[0] == SCRIPT:
            definition = self.find_definition(name)
            if isinstance(definition, ast.FunctionDef):
                return self.call_function(definition, frame.path, positional, named)
            return tuple(positional)  # a named tuple, or an object that is not followed
        if parts[0] == "torch" or parts[:2] in (["ops", "prim"], ["ops", "aten"]):
            return self.call_operator(parts[-1], positional, named, frame)
        return self.call_unknown(".".join(parts[1:]), [*positional, *named.values()], frame.path)


class _Frame:
    """The variables of a call.

    Args:
        path: of the module whose code runs.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.variables: dict[str, Any] = {}
        self.returned: list[Any] = []
        """What branches have returned of which it is not known whether they run."""


def parse(path: Path, source: str) -> ast.Module:
    """Parse a file of code; nothing of it is compiled or runs.

    Raises:
        FileFormatError: it is no Python text, or nested too deep.
    """
    plain = STRING.sub('""', source)
    if _count_brackets(plain) > MAX_BRACKETS or LONG_CHAIN.search(plain):
        _refuse_depth(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers and escapes that Python finds odd
            return ast.parse(source)
    except (RecursionError, MemoryError):
        _refuse_depth(path)
    except (SyntaxError, ValueError) as error:
        refuse(path, f"has code that cannot be parsed ({error})", "the code that torch.jit.save writes")


def _refuse_depth(path: Path) -> NoReturn:
    refuse(path, "has code that is nested too deep", f"at most {MAX_BRACKETS} brackets within brackets")


def _count_brackets(text: str) -> int:
    """Return the depth of brackets."""
    depth = deepest = 0
    for sign in re.findall(r"[][(){}]", text):
        depth = depth + 1 if sign in "([{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def compute(name: str, operands: list[Any]) -> Any:
    """Compute an operator on numbers, texts and lists; what is none is unknown.

    >>> compute("add", [2, 3]), compute("__contains__", [["a"], "a"]), compute("sin", [1.0])
    (5, True, unknown)
    """
    if any(not isinstance(one, int | float | str | list | tuple | None) for one in operands):
        return UNKNOWN
    function = {"add": _add, "mul": _multiply}.get(name, NUMBERS.get(name))
    try:
        return UNKNOWN if function is None else function(*operands)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return UNKNOWN


@_guard
def _add(left: Any, right: Any) -> Any:
    return left + right


@_guard
def _multiply(left: Any, right: Any) -> Any:
    if not all(isinstance(one, int | float) for one in (left, right)):
        raise TypeError("no numbers")
    return left * right


def to_truth(value: Any) -> Any:
    """Return whether a condition holds, or ``UNKNOWN``."""
    return bool(value) if isinstance(value, bool | int | float | str | list | tuple | None) else UNKNOWN


def _list_parameters(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args]


def _is_pair(positional: list[Any]) -> bool:
    return len(positional) > 1 and isinstance(positional[1], Ref)


def _find_rank(op: str, positional: list[Any], named: Mapping[str, Any], tensors: list[Ref]) -> int | None:
    """Return the number of axes of an operator's result, where it is easily known."""
    ranks = [ref.rank for ref in tensors]
    if op.startswith(("conv", "_conv")):
        return ranks[1] if len(ranks) > 1 else None
    if op in ("add", "sub", "mul", "div", "maximum", "minimum", "where", "pow"):
        return max(rank for rank in ranks if rank is not None) if None not in ranks else None
    rank = ranks[0]
    if op in SAME_RANK or rank is None:
        return rank if op in SAME_RANK else None
    if op == "unsqueeze":
        return rank + 1
    if op in ("view", "reshape") and len(positional) > 1 and type(positional[1]) is list:
        return len(positional[1])
    if op in ("mean", "amax", "any") and len(positional) > 1 and type(positional[1]) is list:
        keep = positional[2] if len(positional) > 2 else named.get("keepdim", False)
        return rank if keep is True else rank - len(positional[1])
    if op == "flatten" and positional[1:] == [1]:
        return 2
    return None
