"""One call to a chat endpoint: retried after a transient fault, counted, and with its faults in a few words."""

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

TRANSIENT = (408, 409, 425, 429)  # status codes, beside every 5xx, after which a call is retried
LONGEST_WAIT = 600.0  # seconds; a call whose server asks for a longer wait fails
LONGEST_STEP = 60.0  # seconds; the longest wait if the server asks for none
MEANING = {
    400: "the request is refused",
    401: "the key is refused; check OPENAI_API_KEY",
    402: "the account has no credit",
    403: "the key has no permission; check OPENAI_API_KEY and endpoint.model",
    404: "no such address or model; check endpoint.base_url (it often ends in /v1) and endpoint.model",
    429: "too many requests; lower endpoint.concurrency, or wait",
}
# The server's messages of these codes are not shown, because they may quote parts of the key.
UNQUOTED = (401, 403)


class CallError(Exception):
    """A fault that ends the round; the message is a few words."""


class Stopped(Exception):
    """The round ended before this call was made."""


class _TransientError(Exception):
    """A fault after which the call is retried; `wait` is the time in seconds for which the server asks."""

    def __init__(self, words: str, wait: float | None = None):
        super().__init__(words)
        self.wait = wait


@dataclasses.dataclass(frozen=True)
class Reply:
    """An endpoint's answer.

    Attributes:
      text: the answer; "" for a refusal or a tool call.
      cut: True if it stopped for length.
      prompt_tokens, completion_tokens: numbers of tokens; None if the endpoint does not report them.
    """

    text: str
    cut: bool
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclasses.dataclass
class Usage:
    """Calls, tokens and cost.

    Attributes:
      prices: dollars per million tokens of prompt and of answer; None if unknown.
      calls: number of calls, retries included.
      prompt_tokens, completion_tokens: numbers of tokens.
      estimated: True if an endpoint reported no tokens, which then count as 4 characters each.
    """

    prices: tuple[float, float] | None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def cost(self) -> float | None:
        """Cost in dollars; None if the prices are unknown."""
        if self.prices is None:
            return None
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def line(self) -> str:
        """Return the usage as text."""
        cost = "cost unknown (set endpoint.price_in and .price_out)" if self.cost is None else f"${self.cost:.4f}"
        about = "about " if self.estimated else ""
        return f"{self.calls} calls, {about}{self.prompt_tokens:,} + {self.completion_tokens:,} tokens, {cost}"


class Caller:
    """A client that several threads may use at once, with one count of its usage."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._client: Any = None
        self._lock = threading.Lock()
        self.usage = Usage(settings.prices)

    def open(self) -> None:
        """Create the client.

        Raises:
          UserError: the package `openai` is not installed.
        """
        if self._client is not None:
            return
        try:
            import openai
        except ImportError:
            raise UserError("endpoints need the package openai; pip install 'openai>=2'") from None
        self._openai = openai
        settings = self._settings
        # `call` retries itself, so that retries are counted and end with the round. The package requires a key even
        # for servers without one, hence "none".
        self._client = openai.OpenAI(
            base_url=settings.base_url, api_key=settings.key or "none", timeout=settings.timeout, max_retries=0
        )

    def call(self, messages: Messages, stop: threading.Event) -> Reply:
        """Return one answer.

        Args:
          messages: the question.
          stop: event that ends the round.

        Raises:
          CallError: the call failed, or a limit is reached.
          Stopped: `stop` was set before the answer arrived.
        """
        retries = self._settings.retries
        for attempt in range(retries + 1):
            if stop.is_set():
                raise Stopped
            self._count_call()
            try:
                return self._once(messages)
            except _TransientError as fault:
                wait, words = fault.wait, str(fault)
            if wait is not None and wait > LONGEST_WAIT:
                raise CallError(f"{words}; it asks for a wait of {wait:.0f} s; run the command again after it")
            if attempt == retries:
                tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
                raise CallError(f"{words} ({tries})")
            # The jitter keeps calls that were refused together from being retried together.
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
            # The raw answer is read, because the package accepts HTML as text and other JSON as a completion.
            response = self._client.chat.completions.with_raw_response.create(
                model=settings.model,
                messages=list(messages),
                **{name: value for name, value in given.items() if value is not None},
            )
            body = response.http_response.text
        except openai.APITimeoutError:
            raise _TransientError(f"no answer within {settings.timeout:g} s; raise endpoint.timeout") from None
        except openai.APIStatusError as error:
            raise self._status_fault(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _TransientError(f"cannot be reached: {self._safe(str(cause)) or type(cause).__name__}") from None
        except openai.OpenAIError as error:
            raise _TransientError(f"its answer cannot be read: {self._safe(str(error))}") from None
        reply = _read(body)
        if isinstance(reply, str):
            raise _TransientError(self._safe(reply))
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
        if "insufficient_quota" not in error.response.text and (status in TRANSIENT or status >= 500):
            return _TransientError(words, retry_after(error.response.headers))
        return CallError(words)

    def _safe(self, text: str) -> str:
        """Return `text` without the key, on one line of at most 200 characters."""
        if self._settings.key:
            text = text.replace(self._settings.key, "***")
        line = " ".join(text.split())
        return line if len(line) <= 200 else line[:197] + "..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds for which an answer's headers ask to wait; None if they do not ask.

    Args:
      headers: `retry-after-ms` gives milliseconds, `retry-after` seconds or a date.
    """
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
        if seconds == seconds:  # excludes NaN, which float() accepts as "nan"
            return max(0.0, seconds)
    return None


class _Message(pydantic.BaseModel):
    content: Any = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: Any = None


class _Completion(pydantic.BaseModel):
    """The parts of a chat completion that this module reads; endpoints differ in the other ones."""

    choices: Annotated[list[_Choice], pydantic.Field(min_length=1)]
    usage: Any = None


def _read(body: str) -> Reply | str:
    """Return the reply of a chat completion, or the fault of the body as text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return f"its answer is not JSON: {body[:80]!r}; check endpoint.base_url"
    try:
        completion = _Completion.model_validate(value)
    except pydantic.ValidationError:
        return f"its answer has no choices: {_message(body)[:80]!r}"
    choice = completion.choices[0]
    counts = completion.usage if isinstance(completion.usage, dict) else {}
    tokens = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count if isinstance(count, int) and count >= 0 else None for count in tokens]
    # A refusal or a tool call has no content. It is an unusable answer, but no fault of the endpoint.
    text = choice.message.content
    return Reply(text if isinstance(text, str) else "", choice.finish_reason == "length", *tokens)


def _message(body: str) -> str:
    """Return the message of an error's body, or the whole body if it has no usual form."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return body
