import logging
import math

import pytest

from tinyllm_ray.outside import load_outside
from tinyllm_ray.schema import UserError


def test_a_function_from_outside_is_loaded_and_its_use_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        assert load_outside("math:sqrt", key="loss.custom.root.path") is math.sqrt
    assert caplog.messages == ["loss.custom.root.path: math:sqrt runs, from outside tinyllm_ray"]


@pytest.mark.parametrize("path", ["no_such_package.module:term", "math:no_such_term"])
def test_what_cannot_be_imported_is_refused_with_the_key_that_named_it(path):
    with pytest.raises(UserError, match=rf"loss.custom.length.path: {path} cannot be imported"):
        load_outside(path, key="loss.custom.length.path")


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UserError, match="math:pi is neither a function nor a class"):
        load_outside("math:pi", key="loss.custom.length.path")
