"""A loaded model as a model of EleutherAI's lm-evaluation-harness (extra `eval`).

The harness builds contexts and continuations, as for its own Hugging Face models; this model scores and continues them.
So any of its tasks runs, and the figures are those of its own model on the same weights, up to rounding.
"""

import functools
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxforget.corpus.prompts import encode_prompt
from jaxforget.errors import UserError, first_line
from jaxforget.evals.multiple_choice import Score, cut_pair
from jaxforget.evals.rows import Row, make_row
from jaxforget.evals.text_scores import cut_at, decode
from jaxforget.files import files_below

NEW_TOKENS = 256  # if a task sets no number; the default of the harness's own model
FIRST_LENGTH = 32  # tokens before the first search for a stop word; each further round has twice as many
# (token ids of prompts, new tokens, temperature, top_p) -> new token ids
Generate = Callable[[Sequence[Sequence[int]], int, float, float], list[list[int]]]


class HarnessModel(TemplateLM):
    """A model for `lm_eval.simple_evaluate(model=...)`.

    Args:
      score: from `scorers.continuation_scorer`.
      generate: generation by the same model, without the end token.
      tokenizer: the model's.
      max_length: positions of the model.
      name: the name of its tokenizer in the harness's own caches.
    """

    def __init__(
        self,
        score: Score,
        generate: Generate,
        tokenizer: Any,
        *,
        max_length: int,
        name: str,
    ):
        super().__init__()
        self.tokenizer, self.max_length = tokenizer, max_length
        self._score, self._generate, self._name = score, generate, name

    @property
    def eot_token_id(self) -> int:
        """Id of the end token."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Id of the token before a text without context: the begin token, or the end token if there is none."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's caches."""
        return self._name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return token ids, with the begin token where the tokenizer adds one and the text has none.

        The end token is never appended, although the harness's own model passes on what the tokenizer appends.
        """
        begin = self.tokenizer.bos_token
        if add_special_tokens is None and begin and string.startswith(begin):
            add_special_tokens = False
        if add_special_tokens is False:
            return list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        return encode_prompt(self.tokenizer, string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt that the tokenizer's own template makes of a conversation."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str] | None, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for pair, _, ending in requests:
            if not ending:
                raise UserError(f"{pair[1]!r} after {pair[0][-40:]!r} has no token of its own to score")
        answers = self._score([cut_pair(before, ending, self.max_length) for _, before, ending in requests])
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows as long as the model; each token is predicted once."""
        del disable_tqdm
        windows, counts = [], []
        for (text,) in (request.args for request in requests):
            ids = self.tok_encode(text)
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            made = [make_disjoint_window(pair) for pair in pairs]
            windows += [(None, before, ending) for before, ending in made]
            counts.append(len(made))
        scores = np.array([score for score, _ in self._loglikelihood_tokens(windows)])
        sums = [float(part.sum()) for part in np.split(scores, np.cumsum(counts)[:-1])]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text after each context, cut before the first stop word; equal settings run together."""
        del disable_tqdm
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            kinds.setdefault(repr(request.args[1]), []).append(number)
        made: list[str] = [""] * len(requests)
        for numbers in kinds.values():
            settings = requests[numbers[0]].args[1]
            texts = self._until([requests[number].args[0] for number in numbers], dict(settings))
            for number, text in zip(numbers, texts, strict=True):
                made[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return made

    def _until(self, contexts: list[str], settings: dict[str, Any]) -> list[str]:
        """Return the texts of `generate_until` for contexts of equal settings."""
        settings = normalize_gen_kwargs(settings, NEW_TOKENS)
        end = self.tokenizer.decode([self.eot_token_id])
        stops = tuple(word for word in handle_stop_sequences(settings.get("until"), eos=end) if word)
        new = int(settings["max_gen_toks"])
        temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0
        if new >= self.max_length:
            raise UserError(
                f"max_gen_toks={new}: the model has {self.max_length} positions for context and new tokens; lower it"
            )
        prompts = [self.tok_encode(context)[-(self.max_length - new) :] for context in contexts]
        top_p = float(settings.get("top_p") or 1.0)
        made: list[list[int]] = [[] for _ in prompts]
        going, length = list(range(len(prompts))), FIRST_LENGTH
        # A stop word is not a token, so the text is searched after each round; only rows without one go on.
        while going:
            length = min(length, new - len(made[going[0]]))
            more = self._generate([prompts[i] + made[i] for i in going], length, temperature, top_p)
            for i, ids in zip(going, more, strict=True):
                made[i] += ids
            texts = {i: decode(self.tokenizer, made[i]) for i in going}
            ended = {i for i, ids in zip(going, more, strict=True) if len(ids) < length or len(made[i]) >= new}
            going = [i for i in going if i not in ended and cut_at(texts[i], stops) == texts[i]]
            length *= 2
        return [cut_at(decode(self.tokenizer, ids), stops) for ids in made]


@functools.lru_cache(maxsize=1)
def _task_manager(folder: str | None, changed: tuple[tuple[str, int], ...]) -> TaskManager:
    """Return the harness's index of tasks, which takes seconds to read, once for all models.

    Args:
      folder: a folder of further tasks.
      changed: its files and when they changed; a change makes the index anew.
    """
    return TaskManager(include_path=folder)


def run_tasks(
    lm: HarnessModel, tasks: Sequence[str], *, model: str, folder: str | Path | None = None, limit: int | None = None
) -> list[Row]:
    """Run tasks and return rows {task}_{metric}; intervals are +- 1.96 of the harness's standard errors.

    Args:
      lm: the model.
      tasks: names that the harness knows, or that YAML files in `folder` define.
      model: its name in the rows.
      folder: a folder of such files.
      limit: documents of each task, at most.

    Raises:
      UserError: no such task, or its data cannot be read.
    """
    files = () if folder is None else files_below(folder)[0]
    changed = tuple((str(path), path.stat().st_mtime_ns) for path in files)
    manager = _task_manager(None if folder is None else str(folder), changed)
    for name in tasks:
        if not manager.match_tasks([name]):
            nor = "" if folder is None else f", nor does a YAML file in evals.tasks_folder={folder} describe it"
            raise UserError(
                f"evals.tasks: lm-evaluation-harness knows no task {name!r}{nor}; `lm-eval ls tasks` lists them"
            )
    try:
        results = simple_evaluate(
            lm, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=1000, log_samples=False
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(f"evals.tasks={','.join(tasks)}: its data cannot be read: {first_line(error)}") from None
    rows = []
    for name, figures in results["results"].items():
        for key, value in figures.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{kind}")
            bounds = (value - 1.96 * error, value + 1.96 * error) if isinstance(error, float) else None
            shots = results["n-shot"].get(name, 0)
            convention = (
                f"lm-evaluation-harness {version('lm_eval')}, {shots}-shot, filter {kind}; +- 1.96 standard errors"
            )
            count = results["n-samples"].get(name, {}).get("effective", 0)
            rows.append(make_row(f"{name}_{metric}", convention, model, value, count, bounds))
    return rows
