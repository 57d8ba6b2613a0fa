"""The loss of each method and its gradient beside PyTorch's, on a Llama of a few thousand parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import jaxforget
from jaxforget.errors import UserError
from tests.train.tiny import assert_same_bits

ROWS, LENGTH = 3, 20
SETTINGS = {
    "npo": {"beta": 0.3},
    "dpo": {"beta": 0.2},
    "simnpo": {"beta": 0.5, "delta": 3.0},
    "undial": {"beta": 3.0},
    "wga": {"beta": 0.5},
    "satimp": {"beta1": 0.5, "beta2": 1.0},
}
METHODS = ("grad_ascent", "grad_diff", "npo", "dpo", "simnpo", "undial", "ceu", "wga", "satimp", "pdu")


def rows(seed: int, vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    used, answer = np.zeros((ROWS, LENGTH), bool), np.zeros((ROWS, LENGTH), bool)
    for row, (start, end) in enumerate(zip(rng.integers(2, 8, ROWS), rng.integers(12, LENGTH + 1, ROWS), strict=True)):
        used[row, :end], answer[row, start:end] = True, True
    return {"tokens": rng.integers(0, vocabulary, (ROWS, LENGTH)), "used": used, "answer": answer}


@pytest.fixture(scope="module")
def models(tiny_world, tmp_path_factory):
    """Student and base, ours and PyTorch's."""
    folder = tmp_path_factory.mktemp("methods") / "student"
    base = transformers.LlamaForCausalLM.from_pretrained(tiny_world / "base", dtype=torch.float32)
    student = transformers.LlamaForCausalLM.from_pretrained(tiny_world / "base", dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    student.save_pretrained(folder)
    for file in (tiny_world / "base").glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return jaxforget.load(folder), jaxforget.load(tiny_world / "base"), student, base


def logp(model, given):
    return torch.log_softmax(model(torch.tensor(given["tokens"])).logits[:, :-1], dim=-1)


def picked(logp, given):
    return logp.gather(-1, torch.tensor(given["tokens"])[:, 1:, None])[..., 0]


def mask(given):
    used, answer = torch.tensor(given["used"]), torch.tensor(given["answer"])
    return (used[:, :-1] & used[:, 1:] & answer[:, 1:]).float()


def mean(each, weights):
    return (each * weights).sum() / weights.sum()


def theirs(name, student, base, forget, retain, alternate):
    """The definitions of the methods, in PyTorch."""
    setting, counted = SETTINGS.get(name, {}), mask(forget)
    ours = logp(student, forget)
    with torch.no_grad():
        reference = logp(base, forget)
    y = picked(ours, forget)
    sigmoid = torch.nn.functional.logsigmoid
    hot = torch.nn.functional.one_hot(torch.tensor(forget["tokens"])[:, 1:], ours.shape[-1])
    if name in ("grad_ascent", "grad_diff"):
        loss = mean(y, counted)
    elif name == "npo":
        ratio = ((y - picked(reference, forget)) * counted).sum(1)
        loss = -2 / setting["beta"] * sigmoid(-setting["beta"] * ratio).mean()
    elif name == "dpo":
        with torch.no_grad():
            other_reference = picked(logp(base, alternate), alternate)
        better = ((picked(logp(student, alternate), alternate) - other_reference) * mask(alternate)).sum(1)
        worse = ((y - picked(reference, forget)) * counted).sum(1)
        loss = -2 / setting["beta"] * sigmoid(setting["beta"] * (better - worse)).mean()
    elif name == "simnpo":
        margin = -(y * counted).sum(1) / counted.sum(1) - setting["delta"]
        loss = 0.125 * -2 / setting["beta"] * sigmoid(setting["beta"] * margin).mean()
    elif name == "undial":
        target = torch.softmax(reference - setting["beta"] * hot, dim=-1)
        loss = mean(-(target * ours).sum(-1), counted)
    elif name == "ceu":
        target = torch.softmax(ours.detach().masked_fill(hot > 0, -torch.inf), dim=-1)
        loss = mean(-(target * ours.clamp(min=-1e4)).sum(-1), counted * (counted.cumsum(1) > 1))
    elif name == "pdu":
        logits = student(torch.tensor(forget["tokens"])).logits[:, :-1]
        return mean((logits.max(-1).values - logits.mean(-1)) ** 2, counted), -mean(
            picked(logp(student, retain), retain), mask(retain)
        )
    else:
        p = y.exp().detach()
        weight = p ** setting["beta"] if name == "wga" else p ** setting["beta1"] * (1 - p) ** setting["beta2"]
        loss = (0.1 if name == "satimp" else 1.0) * mean(weight * y, counted)
    return loss, -mean(picked(logp(student, retain), retain), mask(retain))


@pytest.mark.parametrize("name", METHODS)
def test_loss_and_gradient_are_pytorch_s(name, models):
    student, base, their_student, their_base = models
    forget, retain, alternate = (rows(seed, student.config.vocab_size) for seed in range(3))
    loss, gradient = jaxforget.method_loss(
        name, student, base, forget=forget, retain=retain, alternate=alternate, **SETTINGS.get(name, {})
    )
    their_student.zero_grad()
    forget_loss, retain_loss = theirs(name, their_student, their_base, forget, retain, alternate)
    # The multiplier of pdu starts at 0: the retain loss has no gradient in its first step.
    (forget_loss + (0 if name == "pdu" else 1) * retain_loss).backward()
    np.testing.assert_allclose(loss, (forget_loss + retain_loss).item(), rtol=1e-4)
    for ours, expected in (
        (gradient["norm"]["scale"], their_student.model.norm.weight.grad),
        (gradient["embed"], their_student.model.embed_tokens.weight.grad),
    ):
        expected = expected.numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
        assert np.abs(expected).max() > 0


def test_retain_terms_alone(models):
    student, base, their_student, their_base = models
    given = rows(5, student.config.vocab_size)
    ours, reference = logp(their_student, given), logp(their_base, given)
    expected = {
        "nll": -mean(picked(ours, given), mask(given)),
        "retain_kl": mean((reference.exp() * (reference - ours)).sum(-1), mask(given)),
    }
    for name, value in expected.items():
        loss, _ = jaxforget.method_loss(name, student, base, retain=given)
        np.testing.assert_allclose(loss, value.item(), rtol=1e-4)


def test_what_it_refuses(models):
    student, base, _, _ = models
    given = rows(0, student.config.vocab_size)
    for words, message in (
        ({"method": "npoo", "forget": given}, "did you mean npo"),
        ({"method": "npo"}, "needs forget=ROWS"),
        ({"method": "npo", "forget": given}, "needs base="),
        ({"method": "dpo", "forget": given, "base": base}, "needs alternate=ROWS"),
        ({"method": "grad_diff", "forget": given}, "needs retain=ROWS"),
        ({"method": "npo", "forget": given, "base": base, "gamma": 1}, "method npo has no such setting"),
        ({"method": "npo", "forget": given, "base": base, "beta": 0}, "beta=0: must be above 0"),
        ({"method": "grad_ascent", "forget": {"tokens": [[10**6]]}}, "1000000"),
        ({"method": "grad_ascent", "forget": {"token": [[1]]}}, "has no tokens"),
        ({"method": "task_vector", "forget": given, "base": base}, "'task_vector': computes weights without training"),
        ({"method": "nll", "retain": given, "forget": given}, "'nll': takes no forget="),
        ({"method": "retain_kl", "retain": given, "base": base, "alternate": given}, "takes no alternate="),
        ({"method": "nll", "retain": given, "beta": 1.0}, "takes no beta="),
        ({"method": "nll", "retain": given, "retain_weight": 2.0}, "retain_loss and retain_weight"),
        ({"method": "npo", "forget": given, "base": base, "retain_loss": "kl"}, "retain_loss and retain_weight"),
        ({"method": "grad_diff", "forget": given, "retain": given, "retain_weight": np.nan}, "retain_weight=nan"),
        ({"method": "pdu", "forget": given, "retain": given, "base": base, "retain_loss": "kl"}, "give nll with"),
        ({"method": "whp", "forget": given, "base": base, "suppress": "all"}, "suppress='all': is an option of a run"),
        ({"method": "whp", "forget": given, "base": base, "cached": True}, "cached=True: is an option of a run"),
        ({"method": "whp", "forget": given, "base": base, "alpha": "5"}, "alpha='5'"),
        ({"method": "whp", "forget": given, "base": base, "reinforced": base}, "they lack translated"),
        ({"method": "whp_flat", "forget": given, "base": base}, "needs terms="),
    ):
        with pytest.raises(UserError, match=message):
            jaxforget.method_loss(student=student, **words)


def test_computes_in_fp32_whatever_the_dtype_of_the_student(models):
    student, base, *_ = models
    lower = jaxforget.load(student.folder, "bfloat16")
    # The same values as fp32 weights: what remains is the precision of the computation.
    rounded = dataclasses.replace(student, params=jax.tree.map(lambda x: x.astype(jnp.float32), lower.params))
    given = {"forget": rows(0, student.config.vocab_size), "beta": 0.3}
    loss, gradient = jaxforget.method_loss("npo", lower, base, **given)
    expected, theirs = jaxforget.method_loss("npo", rounded, base, **given)
    assert loss == expected
    assert gradient["embed"].dtype == jnp.float32
    assert_same_bits(gradient, theirs)


def test_averaged_targets_are_those_of_several_translations(models):
    """With one translation that is the text itself and no move, the method is KL from base."""
    student, base, *_ = models
    given = rows(0, student.config.vocab_size)
    shape = given["tokens"].shape
    columns = {
        "translations": np.repeat(given["tokens"][:, None], 2, axis=1),
        "position_maps": np.broadcast_to(np.arange(LENGTH), (shape[0], 2, LENGTH)),
        "moved_from": np.full((shape[0], 2, 1), -1),
        "moved_to": np.full((shape[0], 1), -1),
        "moved_since": np.full((shape[0], 1), -1),
    }
    loss, gradient = jaxforget.method_loss("whp_average", student, base, forget={**given, **columns}, translations=2)
    # The mean of the method also counts the last token of a row, unlike a mean over predicted tokens; none counts here.
    expected, theirs = jaxforget.method_loss("retain_kl", student, base, retain=given)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient["norm"]["scale"], theirs["norm"]["scale"], atol=1e-6)
    with pytest.raises(UserError, match="needs forget rows with translations"):
        jaxforget.method_loss("whp_average", student, base, forget=given)
