"""The suites through the Python API, on a random Llama, beside the same figures taken with transformers and torch."""

import functools
import json

import numpy as np
import pytest
import torch
import transformers
from rouge_score.rouge_scorer import RougeScorer

import jaxforget
from jaxforget.errors import UserError
from tests.tiny_run import HEROES, PLACES, sentences
from tests.train.tiny import mesh_of


@pytest.fixture(scope="module")
def base(tiny_world):
    return jaxforget.load(tiny_world / "base", mesh=mesh_of())


@pytest.fixture(scope="module")
def control(tiny_world):
    return jaxforget.load(tiny_world / "control", mesh=mesh_of())


@pytest.fixture(scope="module")
def rival(tiny_world):
    return transformers.LlamaForCausalLM.from_pretrained(tiny_world / "base").eval()


def logits(rival, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return rival(torch.tensor([ids])).logits[0, :-1]


def token_logp(rival, ids: list[int]) -> np.ndarray:
    logp = torch.log_softmax(logits(rival, ids), -1)
    return logp[range(len(ids) - 1), ids[1:]].double().numpy()


@functools.lru_cache(maxsize=64)  # both conventions ask the same
def greedy(rival, tokenizer, prompt: str, new: int) -> str:
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        made = rival.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def values(rows) -> dict[str, float]:
    assert all(set(row) == {"metric", "convention", "model", "value", "low", "high", "n"} for row in rows)
    return {row["metric"]: row["value"] for row in rows}


def pieces(seed: int, count: int, size: int) -> list[str]:
    text = sentences(HEROES, PLACES, count * size // 20, seed)
    return [text[i * size : (i + 1) * size] for i in range(count)]


@pytest.fixture(scope="module")
def muse(tmp_path_factory, base, rival):
    """A folder in MUSE's layout; its references are half what the model itself says, so that no score is 0."""
    folder = tmp_path_factory.mktemp("muse")

    def write(name, value):
        (folder / f"{name}.json").write_text(json.dumps(value))

    prompts = pieces(0, 2, 60)
    said = [greedy(rival, base.tokenizer, prompt, 40) for prompt in prompts]
    write("verbmem_forget", [{"prompt": p, "gt": s + " met the town" * 60} for p, s in zip(prompts, said, strict=True)])
    for seed, part in ((1, "forget"), (2, "retain")):
        asked = pieces(seed, 5, 30)
        shots = [{"question": q, "answer": q[:10]} for q in asked[:2]]
        before = "".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in shots)
        write(f"knowmem_{part}_qa_icl", shots)
        told = [greedy(rival, base.tokenizer, f"{before}Question: {q}\nAnswer: ", 8) for q in asked[2:]]
        write(f"knowmem_{part}_qa", [{"question": q, "answer": f"{t} x"} for q, t in zip(asked[2:], told, strict=True)])
    for seed, part in ((3, "forget"), (4, "retain"), (5, "holdout")):
        write(f"privleak_{part}", pieces(seed, 6, 150))
    return folder


@pytest.mark.parametrize("convention", ["muse", "open-unlearning"])
def test_muse(base, rival, muse, convention):
    tokenizer = base.tokenizer
    scorer = RougeScorer(["rougeL"], use_stemmer=convention == "open-unlearning")

    def read(name):
        return json.loads((muse / f"{name}.json").read_text())

    wanted = {}
    f1 = []
    for item in read("verbmem_forget"):
        reference = tokenizer.decode(tokenizer(item["gt"])["input_ids"][:128], skip_special_tokens=True)
        f1.append(scorer.score(reference, greedy(rival, tokenizer, item["prompt"], 128))["rougeL"].fmeasure)
    wanted["verbmem_forget"] = np.mean(f1)
    for part in ("forget", "retain"):
        shots = "".join(f"Question: {s['question']}\nAnswer: {s['answer']}\n\n" for s in read(f"knowmem_{part}_qa_icl"))
        f1 = []
        for item in read(f"knowmem_{part}_qa"):
            answer = greedy(rival, tokenizer, f"{shots}Question: {item['question']}\nAnswer: ", 32)
            for mark in ("\n\n", "\nQuestion", "Question:"):
                answer = answer.split(mark)[0]
            f1.append(scorer.score(item["answer"], answer)["rougeL"].fmeasure)
        wanted[f"knowmem_{part}"] = np.mean(f1)
    likely = {}
    for part in ("forget", "holdout"):
        logps = [np.sort(token_logp(rival, tokenizer(text)["input_ids"])) for text in read(f"privleak_{part}")]
        likely[part] = np.array([logp[: int(0.4 * len(logp))].mean() for logp in logps])
    found_auc = (likely["holdout"][:, None] > likely["forget"][None, :]).mean()
    wanted["privleak"] = 100 * (found_auc - 0.5393) / 0.5393
    rows = jaxforget.evaluate(base, suite="muse", data=muse, convention=convention, auc_control=0.5393)
    found = values(rows)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-3)
    assert all(0.05 < wanted[name] < 1 for name in wanted if name != "privleak"), wanted
    assert {row["convention"] for row in rows} == {convention}
    assert {row["model"] for row in rows} == {"base"}


def test_muse_against_a_control_model(base, control, muse):
    own = values(jaxforget.evaluate(base, suite="muse", data=muse, control=base))
    assert own["privleak"] == 0
    with pytest.raises(UserError, match="give one"):
        jaxforget.evaluate(base, suite="muse", data=muse, control=control, auc_control=0.5)


@pytest.fixture(scope="module")
def tofu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tofu")
    for seed, split in enumerate(("forget", "retain", "real_authors", "world_facts")):
        texts = pieces(10 + seed, 20, 24)
        records = [
            {
                "question": texts[i],
                "answer": texts[i + 1],
                "paraphrased_answer": texts[i + 2],
                "perturbed_answer": texts[i + 3 : i + 5],
            }
            for i in range(0, 20, 5)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


def test_tofu(base, control, rival, tofu):
    tokenizer = base.tokenizer

    def loss(question, answer):
        prompt = f"[INST] {question} [/INST]"
        ids = [*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]
        return -token_logp(rival, ids)[len(tokenizer(prompt)["input_ids"]) - 1 :].mean()

    records = [json.loads(line) for line in (tofu / "forget.jsonl").read_text().splitlines()]
    ratios = np.array(
        [
            np.exp(
                np.mean([loss(r["question"], p) for p in r["perturbed_answer"]])
                - loss(r["question"], r["paraphrased_answer"])
            )
            for r in records
        ]
    )
    rows = jaxforget.evaluate(base, suite="tofu", data=tofu, control=control)
    found = values(rows)
    assert found["forget_prob"] == pytest.approx(
        np.mean([np.exp(-loss(r["question"], r["answer"])) for r in records]), rel=1e-4
    )
    assert found["forget_truth_ratio"] == pytest.approx(np.minimum(ratios, 1 / ratios).mean(), rel=1e-4)
    assert 0 <= found["forget_quality"] <= 1
    assert values(jaxforget.evaluate(base, suite="tofu", data=tofu, control=base))["forget_quality"] == 1
    assert "forget_quality" not in values(
        jaxforget.evaluate(base, suite="tofu", data=tofu, convention="open-unlearning")
    )
    with pytest.raises(UserError, match="holds no {question}"):
        jaxforget.evaluate(base, suite="tofu", data=tofu, template="Q")


def test_memorization(base, rival, tiny_world):
    tokenizer = base.tokenizer
    text = (tiny_world / "target" / "0.txt").read_text()
    ids = tokenizer(text)["input_ids"][1:]
    found = values(
        jaxforget.evaluate(
            base,
            suite="memorization",
            data=tiny_world / "target" / "0.txt",
            nonmembers=tiny_world / "heldout",
            length=48,
        )
    )
    rows = [[tokenizer.bos_token_id, *ids[i : i + 48]] for i in range(0, len(ids), 48)]
    if len(rows[-1]) - 1 < 24:
        rows.pop()
    hits = [(logits(rival, row).argmax(-1) == torch.tensor(row[1:])).numpy() for row in rows]
    assert found["exact_memorization"] == pytest.approx(np.mean([hit.mean() for hit in hits]))
    assert found["loss"] == pytest.approx(np.mean([-token_logp(rival, row).mean() for row in rows]), rel=1e-4)
    assert {f"auc_{name}" for name in ("loss", "zlib", "min_k", "min_k_plus_plus")} < set(found)
    with pytest.raises(UserError, match="length=1"):
        jaxforget.evaluate(base, suite="memorization", data=tiny_world / "target", length=1)


def test_multiple_choice(base, rival, tmp_path):
    tokenizer = base.tokenizer
    documents = [
        {"context": f"In the morning {name} walked to", "choices": [*PLACES, "the café"], "answer": i % 3}
        for i, name in enumerate(HEROES)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents)))
    sums = []
    for document in documents:
        start = len(tokenizer(document["context"])["input_ids"])
        whole = [tokenizer(f"{document['context']} {choice}")["input_ids"] for choice in document["choices"]]
        sums.append(np.array([token_logp(rival, ids)[start - 1 :].sum() for ids in whole]))
    lengths = np.array([len(choice) for choice in documents[0]["choices"]])
    answers = [document["answer"] for document in documents]
    found = values(jaxforget.evaluate(base, suite="multiple_choice", data=tmp_path / "a.jsonl"))
    assert found["acc"] == np.mean([s.argmax() == a for s, a in zip(sums, answers, strict=True)])
    assert found["acc_norm"] == np.mean([(s / lengths).argmax() == a for s, a in zip(sums, answers, strict=True)])


def test_keywords_are_checked(base, muse):
    with pytest.raises(UserError, match="suite='muse' knows no auc=; it takes data, conventions, auc_control, control"):
        jaxforget.evaluate(base, suite="muse", data=muse, auc=0.5)
    with pytest.raises(UserError, match="knows no probes="):
        jaxforget.evaluate(base, suite="tofu", probes="x")
    with pytest.raises(UserError, match="suite='tofu' needs data="):
        jaxforget.evaluate(base, suite="tofu")
    with pytest.raises(UserError, match="convention='x'"):
        jaxforget.evaluate(base, suite="muse", data=muse, convention="x")
