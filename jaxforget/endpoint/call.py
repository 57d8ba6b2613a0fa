"""One call to a chat endpoint: tried again while its fault may pass, counted, and its fault told in a few words."""

import dataclasses
import json
import random
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

import pydantic

from jaxforget.endpoint.answers import Messages
from jaxforget.endpoint.settings import Settings
from jaxforget.errors import UserError

PASSING = (408, 409, 425, 429)  # and every 5xx: worth another try
LONGEST_WAIT = 600.0  # seconds; a server that asks for more is given up
LONGEST_STEP = 60.0  # seconds; of our own waits
MEANING = {
    400: "the request is refused",
    401: "the key is refused; check OPENAI_API_KEY",
    402: "no credit is left",
    403: "the key is not allowed this; check OPENAI_API_KEY and endpoint.model",
    404: "no such address or model; check endpoint.base_url (it often ends in /v1) and endpoint.model",
    429: "too many requests; lower endpoint.concurrency, or wait",
}
# Their texts may quote parts of the key.
UNQUOTED = (401, 403)


class CallError(Exception):
    """A fault that ends the round; a few words."""


class Stopped(Exception):
    """The round ended before this call was made."""


class _Passing(Exception):
    """A fault that may pass; `wait` is what the server asks for, in seconds."""

    def __init__(self, words: str, wait: float | None = None):
        super().__init__(words)
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Reply:
    """An endpoint's answer; `cut`: it stopped for length. Tokens are None where it does not count them."""

    text: str
    cut: bool
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclasses.dataclass
class Usage:
    """What was used. Answers whose tokens the endpoint did not count are counted at 4 letters a token."""

    prices: tuple[float, float] | None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def cost(self) -> float | None:
        """Dollars; None where no prices are given."""
        if self.prices is None:
            return None
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def line(self) -> str:
        """In words."""
        cost = "cost unknown (set endpoint.price_in and .price_out)" if self.cost is None else f"${self.cost:.4f}"
        about = "about " if self.estimated else ""
        return f"{self.calls} calls, {about}{self.prompt_tokens:,} + {self.completion_tokens:,} tokens, {cost}"


class Caller:
    """Makes calls from many threads; counts them together."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._client: Any = None
        self._lock = threading.Lock()
        self.usage = Usage(settings.prices)

    def open(self) -> None:
        """Makes the client.

        Raises:
          UserError: the package is not installed.
        """
        if self._client is not None:
            return
        try:
            import openai
        except ImportError:
            raise UserError("package openai is not installed, which endpoints need; pip install 'openai>=2'") from None
        self._openai = openai
        settings = self._settings
        # Tries again are ours: counted, told, and ended with the round. "none" is for servers that want no key.
        self._client = openai.OpenAI(
            base_url=settings.base_url, api_key=settings.key or "none", timeout=settings.timeout, max_retries=0
        )

    def call(self, messages: Messages, stop: threading.Event) -> Reply:
        """One answer.

        Raises:
          CallError: it cannot be had, or a limit is reached. Stopped: `stop` was set before it was had.
        """
        retries = self._settings.retries
        for attempt in range(retries + 1):
            if stop.is_set():
                raise Stopped
            self._count_call()
            try:
                return self._once(messages)
            except _Passing as fault:
                wait, words = fault.wait, str(fault)
            if wait is not None and wait > LONGEST_WAIT:
                raise CallError(f"{words}; it asks for a wait of {wait:.0f} s; run this again then")
            if attempt == retries:
                tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
                raise CallError(f"{words} ({tries})")
            # Jitter, so that calls refused together do not come back together.
            own = min(LONGEST_STEP, self._settings.first_wait * 2**attempt) * random.uniform(0.5, 1.0)
            if stop.wait(own if wait is None else wait + random.uniform(0, self._settings.first_wait)):
                raise Stopped
        raise AssertionError("unreachable")

    def _count_call(self) -> None:
        settings, usage = self._settings, self.usage
        with self._lock:
            if settings.max_calls is not None and usage.calls >= settings.max_calls:
                raise CallError(f"endpoint.max_calls={settings.max_calls} is reached; raise it")
            if settings.max_cost is not None and usage.cost >= settings.max_cost:
                raise CallError(f"endpoint.max_cost={settings.max_cost} is reached (${usage.cost:.4f}); raise it")
            usage.calls += 1

    def _once(self, messages: Messages) -> Reply:
        settings, openai = self._settings, self._openai
        given = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        try:
            # The raw answer: the package takes a page of HTML for a text, and reads what is no completion as one.
            response = self._client.chat.completions.with_raw_response.create(
                model=settings.model,
                messages=list(messages),
                **{name: value for name, value in given.items() if value is not None},
            )
            body = response.http_response.text
        except openai.APITimeoutError:
            raise _Passing(f"no answer within {settings.timeout:g} s; raise endpoint.timeout") from None
        except openai.APIStatusError as error:
            raise self._status_fault(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _Passing(f"cannot be reached: {self._safe(str(cause)) or type(cause).__name__}") from None
        except openai.OpenAIError as error:
            raise _Passing(f"its answer cannot be read: {self._safe(str(error))}") from None
        reply = _read(body)
        if isinstance(reply, str):
            raise _Passing(self._safe(reply))
        self._count_tokens(messages, reply)
        return reply

    def _count_tokens(self, messages: Messages, reply: Reply) -> None:
        counted = reply.prompt_tokens is not None and reply.completion_tokens is not None
        with self._lock:
            self.usage.estimated |= not counted
            letters = sum(len(message["content"]) for message in messages)
            self.usage.prompt_tokens += reply.prompt_tokens if counted else letters // 4
            self.usage.completion_tokens += reply.completion_tokens if counted else len(reply.text) // 4

    def _status_fault(self, error: Any) -> Exception:
        status = error.status_code
        said = "" if status in UNQUOTED else self._safe(_message(error.response.text))
        words = f"status {status}" + (f": {MEANING[status]}" if status in MEANING else "") + (f" ({said})" * bool(said))
        if "insufficient_quota" not in error.response.text and (status in PASSING or status >= 500):
            return _Passing(words, retry_after(error.response.headers))
        return CallError(words)

    def _safe(self, text: str) -> str:
        """`text` on one line, cut, and without the key."""
        if self._settings.key:
            text = text.replace(self._settings.key, "***")
        line = " ".join(text.split())
        return line if len(line) <= 200 else line[:197] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer's headers ask to wait, by milliseconds, seconds or date; None where they do not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        given = headers.get(name)
        if given is None:
            continue
        try:
            seconds = float(given) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(given).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if seconds == seconds:  # "nan" is a float too
            return max(0.0, seconds)
    return None


class _Message(pydantic.BaseModel):
    content: Any = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: Any = None


class _Completion(pydantic.BaseModel):
    """The parts of a chat completion that are read; endpoints differ in all others."""

    choices: Annotated[list[_Choice], pydantic.Field(min_length=1)]
    usage: Any = None


def _read(body: str) -> Reply | str:
    """Return the reply of a chat completion, or what is wrong with the body."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return f"its answer is no JSON: {body[:80]!r}; is endpoint.base_url right?"
    try:
        completion = _Completion.model_validate(value)
    except pydantic.ValidationError:
        return f"its answer holds no choices: {_message(body)[:80]!r}"
    choice = completion.choices[0]
    counts = completion.usage if isinstance(completion.usage, dict) else {}
    tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count if isinstance(count, int) and count >= 0 else None for count in tokens]
    # A refusal or a tool call has no content: an unusable answer, not a broken endpoint.
    text = choice.message.content
    return Reply(text if isinstance(text, str) else "", choice.finish_reason == "length", *tokens)


def _message(body: str) -> str:
    """What an error's body says: its message, where it has the usual form."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body
