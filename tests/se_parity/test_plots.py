"""Pictures of a model's gates."""

import numpy as np
import pytest

from se_spec import InputError
from se_spec.records import Record, summarize

from ..conftest import OnDemand

plots, pyplot = OnDemand("se_parity.plots"), OnDemand("matplotlib.pyplot")
pytestmark = pytest.mark.framework("parity")


def make_records(samples: int = 3) -> dict[str, Record]:
    random = np.random.default_rng(0)
    records = {}
    for name, (size, channels) in {"first": ((8, 6), 5), "second": ((4, 3), 7), "vector": ((9,), 7)}.items():
        x, g = random.standard_normal((samples, *size, channels)), random.random((samples, channels))
        records[name] = summarize(x, g, g)
    return records


def test_every_picture_is_drawn_by_one_call(tmp_path) -> None:
    labels, images = np.array(["cat", "dog", "cat"]), np.random.default_rng(1).random((3, 16, 12, 1))
    paths = plots.save_pictures(tmp_path / "new", make_records(), labels=labels, images=images)
    names = ["gates_per_layer", "gates_histogram", "gates_per_class", "channels_per_class", "photographs"]
    assert [path.stem for path in paths] == names
    for path in paths:
        pixels = pyplot.imread(path)
        assert pixels.std() > 0.01, f"{path.name} is empty"
    assert not pyplot.get_fignums()


def test_photographs_show_less_where_gates_are_small() -> None:
    records = make_records()
    assert all((entry.after <= entry.before).all() for entry in records.values())  # gates in 0 to 1
    entry = records["first"]
    assert entry.before.shape == (3, 8, 6) and entry.after.mean() < 0.8 * entry.before.mean()


def test_pictures_of_gates_alone_and_of_one_channel(tmp_path) -> None:
    gates = {"se": np.full((2, 1), 0.5)}
    paths = plots.save_pictures(tmp_path, gates, labels=np.array([0, 1]), images=np.zeros((2, 4, 4, 3)))
    assert [path.stem for path in paths][-1] == "channels_per_class"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": np.zeros(2)}, "2 labels for 3 samples"),
        ({"images": np.zeros((4, 2, 2, 3))}, "4 images for 3 samples"),
    ],
    ids=["labels", "images"],
)
def test_another_number_of_labels_or_images_is_refused(tmp_path, options, words) -> None:
    with pytest.raises(InputError, match=words):
        plots.save_pictures(tmp_path, make_records(), **options)
    with pytest.raises(InputError, match="there is no record"):
        plots.save_pictures(tmp_path, {})
    assert not list(tmp_path.iterdir())
