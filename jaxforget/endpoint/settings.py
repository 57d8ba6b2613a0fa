"""Which endpoint, how it is asked, and what it may cost; from a configuration and the environment.

The key comes from the environment only, and goes into the request's header only: no message, file or repr holds it.
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
    """An endpoint.

    Attributes:
      base_url: what "/chat/completions" follows.
      model: its name there.
      key: "" where the endpoint wants none.
      concurrency: questions under way at a time.
      timeout: seconds that an endpoint may stay silent.
      retries: further tries of a call whose fault may pass.
      first_wait: seconds before the first of them; doubled, with jitter, before each further one.
      temperature: None leaves it to the endpoint.
      max_tokens: of an answer; None leaves it to the endpoint.
      max_calls: of this object's lifetime, further tries counted; None = no limit.
      max_cost: dollars; checked before each call, so calls under way may exceed it.
      prices: dollars per million tokens of prompt and of answer; None = not known.
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
    """`options`, completed by OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY.

    asks: False where nothing will be asked (a dry run), which needs no key.

    Raises:
      UserError: no model, no key for OpenAI's own address, an address that is none or holds a password, a key with
        characters that no key has, a cost limit without prices.
    """
    url = (options.base_url or environment.get("OPENAI_BASE_URL") or OPENAI).strip().rstrip("/")
    parts = _parts(url)
    if parts.username or parts.password:
        raise UserError("endpoint.base_url holds a user or password; write neither there, set OPENAI_API_KEY instead")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint.base_url={url}: is no address; give one as http://localhost:8000/v1")
    model = model_name(options, environment)
    if not model:
        raise UserError("endpoint.model is not set; name the endpoint's model, as endpoint.model=NAME or OPENAI_MODEL")
    key = environment.get("OPENAI_API_KEY", "").strip()
    if any(not "!" <= letter <= "~" for letter in key):
        raise UserError("OPENAI_API_KEY holds characters that no key has (spaces, line ends, non-ASCII); set it anew")
    if asks and not key and url == OPENAI:
        raise UserError(f"OPENAI_API_KEY is not set, which {OPENAI} wants; set it, or another endpoint.base_url")
    prices = (options.price_in, options.price_out)
    if (None in prices) and prices != (None, None):
        raise UserError("endpoint.price_in and endpoint.price_out: set both, or neither")
    if options.max_cost is not None and None in prices:
        raise UserError("endpoint.max_cost needs endpoint.price_in and endpoint.price_out, dollars per million tokens")
    return Settings(
        base_url=url,
        model=model,
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


def model_name(options: EndpointOptions, environment: Mapping[str, str] = os.environ) -> str:
    """The model that would be asked; "" where none is named."""
    return options.model or environment.get("OPENAI_MODEL", "")


def _parts(url: str):
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (reading it is what checks it)
    except ValueError:
        raise UserError("endpoint.base_url is no address; give one as http://localhost:8000/v1") from None
    return parts
