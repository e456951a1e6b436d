"""Every public callable documents its arguments, result, errors and an example, which ``test_docs`` runs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "se_spec",
    "se_spec.networks",
    "se_numpy",
    "se_torch",
    "se_keras",
    "se_flax",
    "se_flax.linen",
    "se_conformance",
    "se_conformance.report",
    "se_parity.implementations",
    "se_parity.training",
    "se_port",
    "se_suite",
)
WITHOUT_ERRORS = {
    "se_spec.networks.last_uses",
    "se_spec.networks.output_length",
    "se_spec.networks.resolve_padding",
    "se_spec.networks.same_padding",
    "se_conformance.covering_array",
    "se_conformance.difference",
    "se_conformance.report.render_fragment",
    "se_conformance.report.render_junit",
    "se_parity.implementations.device",
    "se_suite.installed",
}
"""Functions that raise no error of their own."""

Definition = ast.FunctionDef | ast.ClassDef


def find_file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def list_exports(module: str) -> dict[str, str]:
    """The names that a module re-exports (``from .a import b as b``), and the modules from which they come."""
    parts = module.split(".") if find_file(module).name == "__init__.py" else module.split(".")[:-1]
    return {
        alias.name: ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
        for node in ast.walk(ast.parse(find_file(module).read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if alias.asname == alias.name
    }


def find_definition(module: str, name: str) -> Definition | None:
    """The function or class of this name, wherever it is defined; None for a constant or a module."""
    for node in ast.parse(find_file(module).read_text()).body:
        if isinstance(node, Definition) and node.name == name:
            return node
    source = list_exports(module).get(name)
    return None if source is None or source == module else find_definition(source, name)


PUBLIC = {
    f"{package}.{name}": definition
    for package in PACKAGES
    for name, source in list_exports(package).items()
    if (definition := find_definition(source, name)) is not None
}


def list_missing_sections(definition: Definition, raises: bool = True) -> list[str]:
    """The sections that a docstring lacks: an error class needs none, a record of fields has no errors."""
    text = ast.get_docstring(definition) or ""
    if isinstance(definition, ast.ClassDef):
        if definition.name.endswith("Error"):
            return [] if text else ["docstring"]
        methods = {node.name for node in definition.body if isinstance(node, ast.FunctionDef)}
        needed = {"Args:": True, "Raises:": bool(methods & {"__init__", "__post_init__", "__call__"})}
    else:
        returns = definition.returns is not None and ast.unparse(definition.returns) != "None"
        has_arguments = bool(definition.args.args or definition.args.kwonlyargs or definition.args.kwarg)
        needed = {"Args:": has_arguments, "Returns:": returns, "Raises:": raises}
    needed[">>> "] = True
    return [section for section, is_needed in needed.items() if is_needed and section not in text]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_callable_documents_arguments_result_errors_and_example(name: str) -> None:
    assert list_missing_sections(PUBLIC[name], raises=name not in WITHOUT_ERRORS) == []


FRAMEWORK_METHODS = {"forward", "build", "call", "compute_output_shape", "compute_output_spec", "from_config"}
"""Methods that a framework defines, and calls."""


def list_undocumented_methods(definition: ast.ClassDef) -> list[str]:
    """The public methods of a class that have arguments and do not document them."""
    return [
        node.name
        for node in definition.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in FRAMEWORK_METHODS
        if len(node.args.args) > 1 or node.args.kwonlyargs or node.args.vararg or node.args.kwarg
        if "Args:" not in (ast.get_docstring(node) or "")
    ]


@pytest.mark.parametrize("name", [name for name, node in PUBLIC.items() if isinstance(node, ast.ClassDef)])
def test_public_methods_document_their_arguments(name: str) -> None:
    definition = PUBLIC[name]
    assert isinstance(definition, ast.ClassDef)
    assert list_undocumented_methods(definition) == []


def test_undocumented_method_is_found() -> None:
    code = (
        "class C:\n    def f(self, x): ...\n    def g(self): ...\n    def _h(self, x): ...\n    def call(self, x): ..."
    )
    definition = ast.parse(code).body[0]
    assert isinstance(definition, ast.ClassDef)
    assert list_undocumented_methods(definition) == ["f"]


def test_public_names_of_every_package_are_found() -> None:
    assert {name.rpartition(".")[0] for name in PUBLIC} == set(PACKAGES)
    for package in ("se_torch", "se_keras", "se_flax", "se_flax.linen"):
        for name in ("SqueezeExcitation", "SENet", "set_parameters", "get_parameters"):
            assert f"{package}.{name}" in PUBLIC
    assert len(PUBLIC) > 80


def test_functions_without_errors_exist_and_document_none() -> None:
    for name in WITHOUT_ERRORS:
        assert list_missing_sections(PUBLIC[name]) == ["Raises:"]


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("def f(x) -> int: ...", ["Args:", "Returns:", "Raises:", ">>> "]),
        ("def f(x) -> None:\n    '''Do it.\n\n    Args:\n        x: a map.\n    '''", ["Raises:", ">>> "]),
        (
            "def f() -> int:\n    '''Do it.\n\n    Raises:\n        E: never.\n\n    >>> f()\n    1\n    '''",
            ["Returns:"],
        ),
        ("class C:\n    '''A block.\n\n    >>> C()\n    '''\n    def __init__(self, x): ...", ["Args:", "Raises:"]),
        ("class C(NamedTuple):\n    '''A record.\n\n    Args:\n        x: a map.\n    '''", [">>> "]),
        ("class MyError(ValueError): ...", ["docstring"]),
        ("class MyError(ValueError):\n    '''A mistake.'''", []),
    ],
)
def test_missing_section_is_found(code: str, missing: list[str]) -> None:
    definition = ast.parse(code).body[0]
    assert isinstance(definition, Definition)
    assert list_missing_sections(definition) == missing
