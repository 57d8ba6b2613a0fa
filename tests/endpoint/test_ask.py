"""Questions to an endpoint that works, and to one with every kind of fault."""

import json
import sys
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace

import pydantic
import pytest

from jaxforget.endpoint import Endpoint, Settings
from jaxforget.endpoint.call import retry_after
from jaxforget.errors import UserError
from tests.fake_endpoint import completion, serve

__all__ = ["serve"]
KEY = "sk-Very-Secret-0123456789"


class Verdict(pydantic.BaseModel):
    grade: int = pydantic.Field(ge=0, le=3)
    why: str


def questions(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def endpoint(fake, **more) -> Endpoint:
    url = fake if isinstance(fake, str) else fake.url
    return Endpoint(Settings(**({"base_url": url, "model": "m", "key": KEY, "first_wait": 0.01, "retries": 2} | more)))


def asked(fake, path, texts=("one",), schema=None, tolerate=0, **more) -> list:
    found = endpoint(fake, **more).ask(questions(*texts), answers=path, schema=schema, tolerate=tolerate)
    return [answer and answer.value for answer in found]


def refused(fake, path, texts=("one",), **more) -> str:
    with pytest.raises(UserError) as caught:
        asked(fake, path, texts, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert KEY not in message
    return message


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_come_in_order_and_the_key_goes_into_the_header_only(serve, tmp_path):
    def reply(body, number):
        time.sleep(0.03 * (3 - number))  # later questions are answered first
        return "to " + body["messages"][-1]["content"]

    fake, path = serve(reply), tmp_path / "sub" / "answers.jsonl"
    model = endpoint(fake, max_tokens=7)
    found = model.ask(questions("a", "b", "c"), answers=path)
    assert [(answer.value, answer.text, answer.cached) for answer in found] == [
        (f"to {x}", f"to {x}", False) for x in "abc"
    ]
    assert {(r["model"], r["temperature"], r["max_tokens"]) for r in fake.requests} == {("m", 0.0, 7)}
    assert {headers["authorization"] for headers in fake.headers} == {f"Bearer {KEY}"}
    assert KEY not in path.read_text() + repr(model.settings) + model.cost_line()
    # The records allow a check of a grader: they contain questions and answers.
    record = next(r for r in lines(path) if r["answer"] == "to a")
    assert record["messages"] == questions("a")[0]
    assert (record["prompt_tokens"], record["completion_tokens"]) == (10, 5)


def test_none_is_left_to_the_endpoint(serve, tmp_path):
    fake = serve(lambda *_: "x")
    asked(fake, tmp_path / "a", temperature=None)
    assert set(fake.requests[0]) == {"model", "messages"}


def test_a_rerun_asks_only_what_is_missing_and_equal_questions_are_asked_once(serve, tmp_path):
    path = tmp_path / "a.jsonl"
    fake = serve(lambda body, _: body["messages"][-1]["content"].upper())
    assert asked(fake, path, ("a", "b", "a")) == ["A", "B", "A"]
    assert len(fake.requests) == 2
    model = endpoint(fake)
    found = model.ask(questions("c", "b", "a"), answers=path)
    assert [(answer.value, answer.cached) for answer in found] == [("C", False), ("B", True), ("A", True)]
    assert len(fake.requests) == 3
    assert "1 new answers, 2 cached" in model.cost_line()
    # A different model, temperature or length gives a different key.
    for other in ({"model": "n"}, {"temperature": 0.5}, {"max_tokens": 3}):
        asked(fake, path, ("a",), **other)
    assert len(fake.requests) == 6


def test_an_answer_counts_only_for_the_model_at_its_address(serve, tmp_path):
    one, other = serve(lambda *_: "one"), serve(lambda *_: "other")
    for fake, expected in ((one, "one"), (other, "other"), (one, "one")):
        (found,) = endpoint(fake).ask(questions("a"), answers=tmp_path / "a")
        assert found.value == expected
    assert len(one.requests) == len(other.requests) == 1


def test_a_line_that_was_cut_off_is_asked_again_and_harms_no_later_one(serve, tmp_path):
    path = tmp_path / "a.jsonl"
    fake = serve(lambda body, _: body["messages"][-1]["content"].upper())
    asked(fake, path, ("a", "b"), concurrency=1)
    path.write_bytes(path.read_bytes()[:-20])
    assert asked(fake, path, ("a", "b")) == ["A", "B"]
    assert len(fake.requests) == 3
    assert asked(fake, path, ("a", "b")) == ["A", "B"]
    assert len(fake.requests) == 3


def test_no_more_than_the_allowed_number_at_once(serve, tmp_path):
    fake = serve(lambda *_: time.sleep(0.05) or "x")
    asked(fake, tmp_path / "a", tuple("abcdefgh"), concurrency=3)
    assert fake.most_at_once == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"grade": 2, "why": "theme"}',
        '```json\n{"grade": 2, "why": "theme"}\n```',
        'Sure! Here it is: {"grade": 2, "why": "theme"} Anything else?',
        '<think>is {it} 2 or 3?</think>\n{"grade": 2, "why": "theme"}',
    ],
)
def test_structured_answers(serve, tmp_path, text):
    fake = serve(lambda *_: text)
    assert asked(fake, tmp_path / "a", schema=Verdict) == [Verdict(grade=2, why="theme")]
    assert '"maximum": 3' in fake.requests[0]["messages"][0]["content"]  # the question contains the schema
    assert asked(fake, tmp_path / "a", schema=Verdict) == [Verdict(grade=2, why="theme")]
    assert len(fake.requests) == 1


def test_a_list_of_values_and_a_system_message_that_is_kept(serve, tmp_path):
    fake = serve(lambda *_: '[{"grade": 1, "why": ""}]')
    messages = [{"role": "system", "content": "You grade."}, {"role": "user", "content": "this"}]
    (found,) = endpoint(fake).ask([messages], answers=tmp_path / "a", schema=list[Verdict])
    assert found.value == [Verdict(grade=1, why="")]
    roles = [message["role"] for message in fake.requests[0]["messages"]]
    assert roles == ["system", "user"]
    assert fake.requests[0]["messages"][0]["content"].startswith("You grade.\n\nAnswer with one JSON")
    assert messages[0]["content"] == "You grade."


def test_an_unfit_answer_is_sent_back_once_with_the_reason(serve, tmp_path):
    path = tmp_path / "a.jsonl"
    fake = serve(lambda _, number: ['{"grade": 9, "why": "?"}', '{"grade": 3, "why": "name"}'][number])
    assert asked(fake, path, schema=Verdict) == [Verdict(grade=3, why="name")]
    again = fake.requests[1]["messages"]
    assert [m["role"] for m in again] == ["system", "user", "assistant", "user"]
    assert "grade: Input should be less than or equal to 3" in again[-1]["content"]
    assert [record["usable"] for record in lines(path)] == [False, True]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("I cannot.", "it is not JSON"),
        ('{"grade": 9, "why": "?"}', "grade: Input should be less"),
        (completion('{"grade": 1, "wh', finish="length"), "it was cut at the limit of its length"),
        (completion(None), "it is empty"),
    ],
)
def test_nonsense_spoils_its_own_question_only(serve, tmp_path, bad, fault):
    def reply(body, _):
        return bad if "bad" in str(body["messages"][1]) else '{"grade": 1, "why": ""}'

    fake, path = serve(reply), tmp_path / "a.jsonl"
    message = refused(fake, path, ("a", "bad", "c"), schema=Verdict)
    assert "1 of 3 answers are unusable" in message
    assert fault in message
    assert f"2 of 3 answers are in {path}" in message
    assert len(fake.requests) == 4
    assert asked(fake, path, ("a", "bad", "c"), schema=Verdict, tolerate=1) == [
        Verdict(grade=1, why=""),
        None,
        Verdict(grade=1, why=""),
    ]
    assert len(fake.requests) == 6  # the question with the unusable answer is asked twice more


def test_half_a_text_is_not_taken_for_an_answer(serve, tmp_path):
    fake = serve(lambda *_: completion("and then he", finish="length"))
    assert "cut at the limit" in refused(fake, tmp_path / "a")


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 408, "DROP", "HALF", (200, {"content-type": "text/html"}, b"<html>busy")]
)
def test_faults_that_pass_are_tried_again(serve, tmp_path, fault):
    fake = serve(lambda _, number: fault if number < 2 else "well")
    assert asked(fake, tmp_path / "a") == ["well"]
    assert len(fake.requests) == 3
    assert endpoint(fake).usage.calls == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (429, "status 429: too many requests; lower endpoint.concurrency"),
        (500, "status 500 (told to say 500) (3 tries)"),
        ("DROP", "cannot be reached"),
        ("HALF", "cannot be reached"),
        (
            (200, {"content-type": "text/html"}, b"<html>hello"),
            "its answer is not JSON: '<html>hello'; check endpoint.base_url",
        ),
        ((200, {}, b"[1, 2"), "its answer is not JSON"),
        ((200, {}, b"null"), "its answer has no choices"),
        ({"choices": []}, "its answer has no choices"),
        ({"error": {"message": "overloaded"}}, "its answer has no choices: 'overloaded'"),
        ("HANG", "no answer within 1 s; raise endpoint.timeout"),
    ],
)
def test_faults_that_stay_are_one_line_and_what_was_answered_is_kept(serve, tmp_path, fault, words):
    fake, path = serve(lambda body, _: "fine" if "good" in str(body["messages"]) else fault), tmp_path / "a.jsonl"
    # A busy machine needs time even for a good answer, so only the fault that waits has a short timeout.
    message = refused(fake, path, ("good", "bad"), concurrency=1, timeout=1.0 if fault == "HANG" else 60.0)
    assert words in message
    assert f"1 of 2 answers are in {path}; the same command asks only for the rest" in message
    assert len(fake.requests) == 4
    fake.reply = lambda *_: "now"
    assert asked(fake, path, ("good", "bad")) == ["fine", "now"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "check OPENAI_API_KEY"), (403, "check OPENAI_API_KEY"), (404, "endpoint.base_url"), (400, "refused")],
)
def test_faults_that_cannot_pass_are_not_tried_again(serve, tmp_path, status, words):
    fake = serve(lambda *_: (status, {}, {"error": {"message": f"no: {KEY} and {KEY[:9]}"}}))
    message = refused(fake, tmp_path / "a")
    assert f"status {status}" in message
    assert words in message
    assert len(fake.requests) == 1
    if status in (401, 403):
        assert KEY[:9] not in message  # messages of these codes may quote parts of keys


def test_an_empty_account_is_not_tried_again(serve, tmp_path):
    fake = serve(lambda *_: (429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}))
    refused(fake, tmp_path / "a")
    assert len(fake.requests) == 1


def test_nobody_there(tmp_path):
    message = refused("http://127.0.0.1:9/v1", tmp_path / "a")
    assert "m at http://127.0.0.1:9/v1: cannot be reached: " in message
    assert "refused" in message
    assert not (tmp_path / "a").exists()


@pytest.fixture
def waits(monkeypatch) -> list[tuple[float, bool]]:
    """The waits between tries: (seconds asked for, whether the round's end cut the wait short).

    A wait of up to a second is not carried out. A longer one lasts until the round ends.
    """
    found: list[tuple[float, bool]] = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            ended = super().wait(0 if timeout <= 1 else timeout)
            found.append((timeout, ended))
            return ended

    monkeypatch.setattr("jaxforget.endpoint.ask.threading", SimpleNamespace(**{**vars(threading), "Event": Stop}))
    return found


def test_the_server_says_when_to_come_back(serve, tmp_path, waits):
    fake = serve(lambda _, number: (429, {"retry-after": "0.4"}, {}) if number == 0 else "x")
    asked(fake, tmp_path / "a")
    [(seconds, _)] = waits
    assert 0.4 <= seconds <= 0.41  # the fixture's first wait is the most that is added
    fake = serve(lambda *_: (503, {"retry-after": "4000"}, {}))
    assert "wait of 4000 s" in refused(fake, tmp_path / "b")
    assert len(fake.requests) == 1


def test_waits_double_and_are_jittered(serve, tmp_path, waits):
    fake = serve(lambda _, number: 500 if number < 3 else "x")
    asked(fake, tmp_path / "a", retries=3, first_wait=0.2)
    for (seconds, _), most in zip(waits, (0.2, 0.4, 0.8), strict=True):
        assert most / 2 <= seconds <= most
    assert len({seconds / most for (seconds, _), most in zip(waits, (0.2, 0.4, 0.8), strict=True)}) == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    assert 25 < retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30


def test_after_a_fault_that_stays_no_further_call_is_made(serve, tmp_path):
    fake = serve(lambda _, number: "x" if number < 2 else 401)
    assert "2 of 9 answers are" in refused(fake, tmp_path / "a", tuple("abcdefghi"), concurrency=1)
    assert len(fake.requests) == 3


def test_a_fault_ends_the_others_waits(serve, tmp_path, waits):
    def reply(body, _):
        if "fatal" in str(body["messages"]):
            time.sleep(0.1)
            return 401
        return (503, {"retry-after": "100"}, {})

    fake = serve(reply)
    refused(fake, tmp_path / "a", ("a", "b", "fatal"))
    assert all(seconds >= 100 and ended for seconds, ended in waits)
    assert len(fake.requests) <= 3  # nothing is asked again


def test_limits_of_calls_and_cost(serve, tmp_path):
    fake = serve(lambda body, _: body["messages"][-1]["content"].upper())
    message = refused(fake, tmp_path / "a", tuple("abcde"), max_calls=3, concurrency=1)
    assert "endpoint.max_calls=3 is reached" in message
    assert "3 of 5 answers are" in message
    assert asked(fake, tmp_path / "a", tuple("abcde"), max_calls=2) == list("ABCDE")
    # A call is 10 + 5 tokens: 10 * 100 + 5 * 200 dollars a million = 0.2 cents.
    prices = {"prices": (100.0, 200.0), "concurrency": 1}
    message = refused(fake, tmp_path / "b", tuple("abcde"), max_cost=0.003, **prices)
    assert "endpoint.max_cost=0.003 is reached ($0.0040)" in message
    assert "2 of 5" in message


def test_cost_line(serve, tmp_path):
    fake = serve(lambda body, _: completion("x" * 40, usage="uncounted" not in str(body["messages"])))
    model = endpoint(fake, prices=(100.0, 200.0))
    model.ask(questions("a", "b"), answers=tmp_path / "a")
    assert model.cost_line().endswith("2 new answers, 0 cached; 2 calls, 20 + 10 tokens, $0.0040")
    model.ask(questions("uncounted" * 4), answers=tmp_path / "a")
    assert "3 calls, about 29 + 20 tokens" in model.cost_line()  # counted at 4 characters a token
    unpriced = endpoint(fake)
    unpriced.ask(questions("c"), answers=tmp_path / "a")
    assert "cost unknown" in unpriced.cost_line()


def test_a_preview_asks_nothing_and_shows_one_prompt(serve, tmp_path, monkeypatch):
    fake, path = serve(lambda *_: "x"), tmp_path / "a.jsonl"
    asked(fake, path, ("a",))
    monkeypatch.setitem(sys.modules, "openai", None)  # not installed
    text = endpoint(fake, prices=(1e6, 0.0)).preview(questions("a", "be or not", "c" * 11, "c" * 11), answers=path)
    assert "3 questions, 1 answered in" in text
    assert "2 calls to make, about 5 prompt tokens" in text
    assert "$5.0000" in text
    assert text.endswith("--- user\nbe or not")
    assert len(fake.requests) == 1


def test_without_the_package(serve, tmp_path, monkeypatch):
    fake, path = serve(lambda *_: "x"), tmp_path / "a.jsonl"
    asked(fake, path)
    monkeypatch.setitem(sys.modules, "openai", None)
    assert asked(fake, path) == ["x"]  # answered by the file
    assert "pip install" in refused(fake, path, ("other",))


def test_answers_that_cannot_be_written(serve, tmp_path):
    fake = serve(lambda *_: "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory") as caught:
        asked(fake, tmp_path / "file" / "a.jsonl")
    assert caught.value.filename == str(tmp_path / "file" / "a.jsonl")


def test_progress_and_nothing_to_ask(serve, tmp_path):
    fake, said = serve(lambda *_: "x"), []
    assert endpoint(fake).ask([], answers=tmp_path / "a") == []
    endpoint(fake).ask(questions(*"abcdefghijklmnopqrst"), answers=tmp_path / "a", say=said.append)
    assert said == [f"  {count} of 20 answers" for count in range(2, 21, 2)]
    assert not [t for t in threading.enumerate() if t.name.startswith("endpoint")]
