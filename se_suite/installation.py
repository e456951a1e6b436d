"""The installed frameworks, by the package of se-suite that needs them."""

from importlib.metadata import PackageNotFoundError, version

REQUIREMENTS = {
    "se_spec": (),
    "se_numpy": ("numpy",),
    "se_torch": ("torch",),
    "se_keras": ("keras",),
    "se_flax": ("flax", "jax"),
    "se_conformance": ("numpy",),
    "se_parity": ("numpy", "ml_dtypes", "rich", "scikit-learn"),
    "se_port": ("numpy", "safetensors", "msgpack"),
}
"""The distributions that each package needs."""


def installed() -> dict[str, str]:
    """Return what each package of se-suite can be imported with.

    Returns:
        A package's name -> the distributions that it needs with their versions, ``"ready"`` if it needs none, or
        ``"needs ..."`` with those that are not installed.

    >>> installed()["se_spec"]
    'ready'
    """
    return {package: _describe(names) for package, names in REQUIREMENTS.items()}


def _describe(distributions: tuple[str, ...]) -> str:
    found = {name: _find_version(name) for name in distributions}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return ", ".join(f"{name} {number}" for name, number in found.items()) or "ready"


def _find_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
