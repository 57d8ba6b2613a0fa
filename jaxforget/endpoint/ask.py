"""Questions to an endpoint: many at once, with cached answers, one repair of an unusable answer, and the cost."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from jaxforget.endpoint.answers import Answers, Messages, UnusableError, instructed, parse, repaired, request_hash
from jaxforget.endpoint.call import Caller, CallError, Reply, Stopped, Usage
from jaxforget.endpoint.settings import Settings
from jaxforget.errors import UserError


@dataclasses.dataclass(frozen=True)
class Answer:
    """A usable answer.

    Attributes:
      value: the text, or the value of the schema.
      text: the raw answer.
      cached: True if it was read from the file of answers.
    """

    value: Any
    text: str
    cached: bool


class Endpoint:
    """An endpoint with its limits, which counts calls and tokens.

    It imports the package `openai` at the first question without a cached answer.

    Args:
      settings: the address, the model and the limits.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self._caller = Caller(settings)
        self._cached = self._new = 0

    @property
    def usage(self) -> Usage:
        """Calls and tokens of this object so far."""
        return self._caller.usage

    def ask(
        self,
        questions: Sequence[Messages],
        *,
        answers: str | Path,
        schema: Any = None,
        tolerate: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> list[Answer | None]:
        """Return the answers to `questions`, in their order; equal questions are asked once.

        Args:
          questions: each a list of {"role", "content"}.
          answers: file of JSON lines. Questions with a usable answer in it are not asked again. Every new answer is
            appended when it arrives, so an interrupted run loses nothing.
          schema: a pydantic model, or any type that pydantic can check; None for plain text. An answer that does not
            fit is sent back once with the reason.
          tolerate: maximal number of questions without a usable answer; each of them gives None.
          say: receives a line of progress after every tenth of the questions.

        Raises:
          UserError: the endpoint refuses, fails after all retries, gives unusable answers to more than `tolerate`
            questions, or a limit is reached. The file has all answers up to then.
        """
        file = Answers(answers)
        asked = [instructed(messages, schema) for messages in questions]
        keys = [self._key(messages) for messages in asked]
        found = self._found(file, keys, schema)
        missing = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in found}
        self._cached += len(found)
        unusable = self._ask_all(missing, found, file, schema, say) if missing else []
        if len(unusable) > tolerate:
            raise UserError(
                f"endpoint {self._name}: {len(unusable)} of {len(missing)} answers are unusable, the first because "
                f"{unusable[0]}; {self._rest(file, found, keys)}"
            )
        return [found.get(key) for key in keys]

    def preview(self, questions: Sequence[Messages], *, answers: str | Path, schema: Any = None) -> str:
        """Return the number of calls that `ask` would make, a rough cost and the first question, without a call."""
        asked = [instructed(messages, schema) for messages in questions]
        keys = [self._key(messages) for messages in asked]
        found = self._found(Answers(answers), keys, schema)
        missing = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in found}
        letters = sum(len(message["content"]) for messages in missing.values() for message in messages)
        lines = [
            f"endpoint {self._name}: {len(set(keys))} questions, {len(found)} answered in {answers}, "
            f"{len(missing)} calls to make, about {letters // 4:,} prompt tokens (4 characters each)"
        ]
        if self.settings.prices is not None:
            lines[0] += f", ${letters / 4 * self.settings.prices[0] / 1e6:.4f} for the prompts"
        for message in next(iter(missing.values()), asked[0] if asked else []):
            lines += [f"--- {message['role']}", message["content"]]
        return "\n".join(lines)

    def cost_line(self) -> str:
        """Return one line with the number of answers and their cost."""
        return f"endpoint {self._name}: {self._new} new answers, {self._cached} cached; {self.usage.line()}"

    @property
    def _name(self) -> str:
        return f"{self.settings.model} at {self.settings.base_url}"

    def _key(self, messages: Messages) -> str:
        # Another server may hold another model of the same name.
        parameters = {
            "address": self.settings.base_url,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        return request_hash(self.settings.model, messages, parameters)

    def _found(self, file: Answers, keys: Sequence[str], schema: Any) -> dict[str, Answer]:
        stored, found = file.read(), {}
        for key in keys:
            if key in stored and key not in found:
                try:
                    found[key] = Answer(parse(stored[key], schema), stored[key], cached=True)
                except UnusableError:
                    continue
        return found

    def _ask_all(
        self,
        missing: dict[str, list[dict[str, str]]],
        found: dict[str, Answer],
        file: Answers,
        schema: Any,
        say: Callable[[str], None] | None,
    ) -> list[str]:
        """Ask the questions `missing` and add the answers to `found`; return the faults of unusable answers."""
        stop = threading.Event()
        unusable: list[str] = []
        self._caller.open()
        pool = ThreadPoolExecutor(min(self.settings.concurrency, len(missing)), thread_name_prefix="endpoint")
        total, done = len(found) + len(missing), 0
        try:
            futures: dict[Future, str] = {
                pool.submit(self._one, key, messages, file, schema, stop): key for key, messages in missing.items()
            }
            fault: Exception | None = None
            for future in as_completed(futures):
                try:
                    found[futures[future]] = future.result()
                    self._new += 1
                except UnusableError as error:
                    unusable.append(str(error))
                except Stopped:
                    continue
                except Exception as error:
                    # The first fault ends the round. Calls in progress may still succeed, and their answers are saved.
                    fault = fault or error
                    stop.set()
                    continue
                done += 1
                if say is not None and done * 10 // len(missing) > (done - 1) * 10 // len(missing):
                    say(f"  {len(found)} of {total} answers")
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        if isinstance(fault, CallError):
            raise UserError(f"endpoint {self._name}: {fault}; {self._rest(file, found, list(found) + list(missing))}")
        if fault is not None:
            raise fault
        return unusable

    def _one(self, key: str, messages: Messages, file: Answers, schema: Any, stop: threading.Event) -> Answer:
        """Ask one question, and once more if its answer is unusable."""
        try:
            return self._asked_twice(key, messages, file, schema, stop)
        except (CallError, OSError):
            # The round stops here, in the worker: until the main thread sees the fault, others would start calls.
            stop.set()
            raise

    def _asked_twice(self, key: str, messages: Messages, file: Answers, schema: Any, stop: threading.Event) -> Answer:
        reply = self._caller.call(messages, stop)
        try:
            value = parse(reply.text, schema, cut=reply.cut)
        except UnusableError as error:
            self._keep(file, key, messages, reply, usable=False)
            reply = self._caller.call(repaired(messages, reply.text, str(error), schema), stop)
            try:
                value = parse(reply.text, schema, cut=reply.cut)
            except UnusableError:
                self._keep(file, key, messages, reply, usable=False)
                raise
        self._keep(file, key, messages, reply, usable=True)
        return Answer(value, reply.text, cached=False)

    def _keep(self, file: Answers, key: str, messages: Messages, reply: Reply, *, usable: bool) -> None:
        file.keep(
            key,
            usable=usable,
            answer=reply.text,
            model=self.settings.model,
            messages=list(messages),
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
        )

    @staticmethod
    def _rest(file: Answers, found: dict[str, Answer], keys: Sequence[str]) -> str:
        saved = f"{len(found)} of {len(set(keys))} answers are in {file.path}"
        return f"{saved}; the same command asks only for the rest"
