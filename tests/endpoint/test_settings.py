"""Sources of an endpoint's address, model and key, and refused settings."""

import pytest

from jaxforget.config import config_from
from jaxforget.endpoint import settings_from
from jaxforget.errors import UserError

SECRET = "sk-0123456789"


def settings(environment=None, **given):
    return settings_from(config_from({"endpoint": given}).endpoint, environment or {})


def test_configuration_before_environment_before_openai():
    environment = {"OPENAI_BASE_URL": "http://env/v1/", "OPENAI_MODEL": "of-env", "OPENAI_API_KEY": f" {SECRET}\n"}
    found = settings(environment)
    assert (found.base_url, found.model, found.key) == ("http://env/v1", "of-env", SECRET)
    found = settings(environment, base_url="http://mine:1/v1", model="mine", price_in=1, price_out=2, max_cost=3)
    assert (found.base_url, found.model, found.prices, found.max_cost) == ("http://mine:1/v1", "mine", (1.0, 2.0), 3.0)
    assert settings({"OPENAI_API_KEY": SECRET}, model="m").base_url == "https://api.openai.com/v1"
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ({"base_url": "http://x"}, {}, "endpoint.model is not set"),
        ({"model": "m"}, {}, "OPENAI_API_KEY is not set"),
        ({"model": "m", "base_url": "localhost:80"}, {}, "is not an address"),
        ({"model": "m", "base_url": "ftp://x"}, {}, "is not an address"),
        ({"model": "m", "base_url": "http://x:port"}, {}, "is not an address"),
        ({"model": "m", "base_url": "http://[x"}, {}, "is not an address"),
        ({"model": "m", "base_url": f"http://me:{SECRET}@x"}, {}, "contains a user or password"),
        ({"model": "m"}, {"OPENAI_API_KEY": f"{SECRET} x"}, "contains invalid characters"),
        ({"model": "m"}, {"OPENAI_API_KEY": f"{SECRET}é"}, "contains invalid characters"),
        ({"model": "m", "base_url": "http://x", "price_in": 1.0}, {}, "set both"),
        ({"model": "m", "base_url": "http://x", "max_cost": 1.0}, {}, "needs endpoint.price_in"),
    ],
)
def test_refused_in_one_line_without_the_secret(given, environment, words):
    with pytest.raises(UserError, match=words) as caught:
        settings(environment, **given)
    assert SECRET not in str(caught.value)


def test_a_key_given_as_an_option_is_not_echoed():
    with pytest.raises(UserError, match="unknown key") as caught:
        config_from({}, [f"endpoint.api_key={SECRET}"])
    assert SECRET not in str(caught.value)
