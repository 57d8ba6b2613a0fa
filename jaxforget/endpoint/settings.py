"""Settings of an endpoint, from the configuration and the environment.

The key is read from the environment and sent in the request's header. No message, file or repr contains it.
"""

import dataclasses
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from jaxforget.config.schema import EndpointOptions
from jaxforget.errors import UserError

OPENAI = "https://api.openai.com/v1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an endpoint.

    Attributes:
      base_url: the address before "/chat/completions".
      model: the model's name at this endpoint.
      key: API key; "" if the endpoint needs none.
      concurrency: maximal number of calls at a time.
      timeout: seconds without an answer after which a call fails.
      retries: maximal number of retries of a call after transient faults.
      first_wait: seconds before the first retry; doubled, with jitter, before each further one.
      temperature: sampling temperature; None for the endpoint's default.
      max_tokens: maximal tokens of an answer; None for the endpoint's default.
      max_calls: maximal number of calls, retries included; None for no limit.
      max_cost: maximal cost in dollars, checked before each call, so calls in progress may exceed it.
      prices: dollars per million tokens of prompt and of answer; None if unknown.
    """

    base_url: str
    model: str
    key: str = dataclasses.field(default="", repr=False)
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    first_wait: float = 1.0
    temperature: float | None = 0.0
    max_tokens: int | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    prices: tuple[float, float] | None = None


def settings_from(
    options: EndpointOptions, environment: Mapping[str, str] = os.environ, *, asks: bool = True
) -> Settings:
    """Return the settings of an endpoint.

    Args:
      options: the configuration's options.
      environment: completes them by OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.
      asks: False for a dry run, which makes no call and needs no key.

    Raises:
      UserError: the model is not set; OpenAI's own address has no key; the address is malformed or contains a
        password; the key contains invalid characters; a cost limit has no prices.
    """
    options = complete_options(options, environment)
    url = options.base_url
    parts = _parts(url)
    if parts.username or parts.password:
        raise UserError("endpoint.base_url contains a user or password; remove it and set OPENAI_API_KEY instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint.base_url={url}: is not an address; give one such as http://localhost:8000/v1")
    if not options.model:
        raise UserError("endpoint.model is not set; give the endpoint's model as endpoint.model=NAME or OPENAI_MODEL")
    key = environment.get("OPENAI_API_KEY", "").strip()
    if any(not "!" <= letter <= "~" for letter in key):
        raise UserError("OPENAI_API_KEY contains invalid characters (spaces, line ends or non-ASCII); set it again")
    if asks and not key and url == OPENAI:
        raise UserError(f"OPENAI_API_KEY is not set, but {OPENAI} requires it; set it, or another endpoint.base_url")
    prices = (options.price_in, options.price_out)
    if (None in prices) and prices != (None, None):
        raise UserError("endpoint.price_in and endpoint.price_out: set both, or neither")
    if options.max_cost is not None and None in prices:
        raise UserError("endpoint.max_cost needs endpoint.price_in and endpoint.price_out, dollars per million tokens")
    return Settings(
        base_url=url,
        model=options.model,
        key=key,
        concurrency=options.concurrency,
        timeout=options.timeout,
        retries=options.retries,
        temperature=options.temperature,
        max_tokens=options.max_tokens,
        max_calls=options.max_calls,
        max_cost=options.max_cost,
        prices=None if None in prices else prices,
    )


def complete_options(options: EndpointOptions, environment: Mapping[str, str] = os.environ) -> EndpointOptions:
    """Return `options` with the address and the model that are asked; the model is "" if nothing sets it."""
    url = (options.base_url or environment.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
    return dataclasses.replace(options, base_url=url, model=options.model or environment.get("OPENAI_MODEL", ""))


def _parts(url: str):
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError:
        raise UserError("endpoint.base_url is not an address; give one such as http://localhost:8000/v1") from None
    return parts
