"""The rows of a plan as a table: text for a terminal, or Markdown."""

import textwrap
from collections.abc import Sequence
from typing import Any

from jaxforget.tpu.flops import CONVENTION

GIB = 2**30
HEADER = (
    "slice",
    "step",
    "fits",
    "blocks",
    "peak GiB",
    "usable GiB",
    "args",
    "temps",
    "sent GiB",
    "s/step ≥",
    "MFU ≤",
    "compile",
)


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table as text, followed by the remarks of each row and the meaning of the columns."""
    cells = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    # Names are aligned to the left, numbers to the right.
    signs = ["<" if column < 2 else ">" for column in range(len(HEADER))]
    lines = ["  ".join(f"{c:{sign}{w}}" for c, sign, w in zip(line, signs, widths, strict=True)) for line in cells]
    for row in rows:
        lines += _remarks(row)
    return "\n".join([*lines, "", *_legend(rows)])


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table in Markdown, without remarks."""
    lines = [HEADER, ["---"] * len(HEADER), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    projection, collectives = row["projection"], row["collective_bytes"]
    return (
        row["slice"],
        row["step"],
        "yes" if row["fits"] else "no" if row["out_of_memory"] else "failed",
        str(row["blocks"]),
        _gib(row["peak_hbm_bytes"]),
        _gib(row["limit_hbm_bytes"]),
        _gib(row["argument_bytes"]),
        _gib(row["temporary_bytes"]),
        "?" if collectives is None else _gib(sum(collectives.values())),
        "" if projection is None else f"{projection['step_seconds']:.3g}{'*' * (collectives is None)}",
        "" if projection is None else f"{100 * projection['mfu_bound']:.0f} %",
        f"{row['compile_seconds']:.0f} s",
    )


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.2f}" if size >= GIB / 10 else f"{size / GIB:.2g}"


def _remarks(row: dict[str, Any]) -> list[str]:
    lines = []
    if row["collective_bytes"]:
        sent = ", ".join(f"{kind} {_gib(size)}" for kind, size in row["collective_bytes"].items())
        lines.append(f"a device sends, GiB: {sent}")
    lines.append(f"attention: {row['attention']}")
    if row["step"] == "decode":
        each = row["tokens"] // row["blocks"]
        lines.append(f"a step: {row['blocks']} whole completions, of {each} tokens with their prompts")
    if row["fits"]:
        largest = [f"{_gib(buffer['bytes'])} {buffer['shape']}" for buffer in row["largest_buffers"][:3]]
        per_token = f"{row['flops_per_token'] / 1e9:.3g} model, {row['hardware_flops_per_token'] / 1e9:.3g} hardware"
        lines.append(f"GFLOP a token: {per_token}; largest results, GiB: {', '.join(largest) or '?'}")
    if row["refusal"]:
        whose = "does not fit" if row["out_of_memory"] else "the compiler failed, so the memory is unknown"
        lines.append(f"{whose}: {row['refusal']}")
    if row["note"]:
        lines.append(row["note"])
    if row["projection"] and row["projection"]["seconds"]["interconnect"] is None:
        lines.append("* the bytes that it sends are unknown and not part of s/step")
    if row["projection"] and row["projection"]["mfu_bound"] > 1:
        lines.append("MFU above 100 %: N counts the embedding, which takes no products and is much of this model")
    if "max_blocks" in row:
        tried = f"{row['max_blocks_compilations']} compilations, in steps of {row['max_blocks_unit']}"
        lines.append(f"most blocks a step: {row['max_blocks']} ({tried})")
    lines += _remats(row.get("remats", ()))
    options = row.get("options", ())
    lines += [_option(option) for option in options if option["effect"] is None]
    if changing := [option for option in options if option["effect"] is not None]:
        lines += ["options that change more than time:", *(f"  {_option(option)}" for option in changing)]
    if row.get("preset"):
        lines.append(f"{row['preset']} is the preset for this slice")
    return ["", f"{row['slice']} {row['step']} ({row['weights']})", *(f"  {line}" for line in lines)]


def _remats(remats: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for found in remats:
        flops, most = (entry["hardware_flops_per_token"] for entry in (found, remats[0]))
        less = "" if flops == most else f", {100 * (1 - flops / most):.0f} % less"
        fits = "fits" if found["fits"] else "does not fit" if found["out_of_memory"] else "the compiler failed"
        size = f"{_gib(found['peak_hbm_bytes'])} GiB"
        lines.append(f"model.remat={found['remat']}: {size}, {fits}; {flops / 1e9:.3g} hardware GFLOP a token{less}")
    return lines


def _option(option: dict[str, Any]) -> str:
    saved, peak = option["saved_bytes"], option["peak_hbm_bytes"]
    more = " more" if saved is not None and saved < 0 else ""
    saves = "" if saved is None else f" {'takes' if more else 'saves'} {_gib(abs(saved))} GiB{more} and"
    fits = "fits" if option["fits"] else "does not fit"
    size = "" if peak is None else f" ({_gib(peak)} GiB)"
    effect = "" if option["effect"] is None else f"; {option['effect']}"
    return f"with {' '.join(option['options'])}:{saves} {fits}{size}{effect}"


def _legend(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "Sizes are on one device: a chip, or one of the two cores of a v2, v3 or tpu7x chip. peak: arguments, outputs",
        "that take no argument's place, and temporaries, as the TPU compiler lays them out; where it refuses, what it",
        "says it would need. score lies beside all that the forget stage holds. s/step and MFU: a projection from",
        "published peaks, as if compute, memory and interconnect overlapped wholly; no step is faster. Of memory's",
        "traffic it counts the arguments, read once (decode: once a new token): it does not rank what differs in",
        "intermediate results, such as plain and splash attention. Loops are counted by their turns.",
        *textwrap.wrap(f"{CONVENTION}.", 112),
    ]
    if any(row["widths"].startswith("assumed") for row in rows):
        lengths = f"{rows[0]['translated_length']} translated tokens for {rows[0]['block_length']}"
        lines.append(f"No blocks are prepared yet: {lengths} are assumed.")
    return lines
