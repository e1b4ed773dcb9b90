"""The public names of the package: adding one is a decision, removing one breaks users."""

import inspect

import pytest

import danqing
from danqing import errors

PUBLIC = {
    "CheckpointError": "danqing.errors",
    "ConfigError": "danqing.errors",
    "Control": "danqing.pipelines.control",
    "DanqingError": "danqing.errors",
    "DataError": "danqing.errors",
    "DescribeRequest": "danqing.pipelines.describe",
    "EditRequest": "danqing.pipelines.edit",
    "EvaluateRequest": "danqing.evaluation.request",
    "GenerateRequest": "danqing.pipelines.generate",
    "LayersRequest": "danqing.pipelines.layered",
    "Model": "danqing.model",
    "RequestError": "danqing.errors",
    "ResourceError": "danqing.errors",
    "evaluate": "danqing.evaluation.request",
    "load": "danqing.model",
}


def test_all_is_frozen():
    assert sorted(danqing.__all__) == sorted([*PUBLIC, "__version__"])
    assert set(danqing.__all__) <= set(dir(danqing))


@pytest.mark.parametrize(("name", "home"), PUBLIC.items())
def test_every_name_comes_from_its_home_and_is_described(name, home):
    value = getattr(danqing, name)
    assert value.__module__ == home
    assert inspect.getdoc(value)


def test_every_error_is_public():
    tree = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert tree == {name for name, home in PUBLIC.items() if home == "danqing.errors"}
    assert all(issubclass(getattr(errors, name), errors.DanqingError) for name in tree)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = danqing.paint


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert danqing.__version__ == version("danqing")
