"""What bench `scaling` measured, put into words: where the speed goes, and what networks would make of it."""

import statistics

from accelerate import Accelerator

from benches import prediction
from benches.report import Row, Section, round_ratios, spread
from benches.scaling import ALONE, Outcome, Variant
from benches.variants import NO_TIME
from options.bench import BenchOptions

PARTS = ("step", "all-reduce", "data", "the rest")


def section(args: BenchOptions, accelerator: Accelerator, outcome: Outcome) -> Section:
    """The table and what stands below it.

    Args:
        args: the options of bench.py.
        accelerator: of this process.
        outcome: of `benches.scaling.measure`.
    """
    kind = "core" if accelerator.device.type == "cpu" else "GPU"
    batch_size = outcome.variants[0].images
    rows = []
    for variant in outcome.variants:
        row = Row(variant.name, variant.images, outcome.steps.get(variant.name))
        if row.timing is None:
            available = len(outcome.slots)
            too_many = f"it needs {variant.processes} {kind}s, and there are {available}"
            row.reason = too_many if variant.processes > available else NO_TIME
        rows.append(row)
    parts = {each.name: _parts(each, outcome) for each in outcome.variants if each.name in outcome.steps}
    exchange, predicted = _exchange(outcome), _predict(args, outcome)
    side = args.image_size
    where = f"on a {kind} each" if outcome.slots[0] is None else "of one thread each, pinned to a core"
    title = (
        f"scaling: train.py with {args.model}, {batch_size} images of {args.channels}x{side}x{side} a step on each "
        f"process (weak) or over all (strong), processes {where}, {args.optimizer}, --augment {args.augment}, "
        f"mixed precision {accelerator.mixed_precision}"
    )
    facts = {
        "batch_size": batch_size,
        "parts": parts,
        "exchanged": {"gradient_bytes": outcome.gradient_bytes, "buffer_bytes": outcome.buffer_bytes},
        "all_reduce": exchange,
        "predicted": predicted,
    }
    notes = ["", *_parts_in_words(parts), "", *_exchange_in_words(outcome, exchange), "", *_in_words(predicted)]
    return Section("scaling", title, rows, notes, facts)


def _parts(variant: Variant, outcome: Outcome) -> dict:
    """Where a step's milliseconds go, medians over the rounds, and images/s over those of as many processes alone."""
    timing, silent = outcome.steps[variant.name], outcome.silent.get(variant.name)
    over = [a - b for a, b in zip(timing.seconds, silent.seconds, strict=True)] if silent else [0.0]
    step, exchange, data = timing.median, statistics.median(over), outcome.waited[variant.name]
    seconds = dict(zip(PARTS, (step, exchange, data, step - exchange - data), strict=True))
    share = 1 if variant.weak else 1 / variant.processes  # of the images that one process has in a step
    ratios = [share * ratio for ratio in round_ratios(outcome.steps[ALONE], timing)]
    return {
        "milliseconds_of_a_step": {name: 1000 * value for name, value in seconds.items()},
        "efficiency": spread(ratios),
    }


def _exchange(outcome: Outcome) -> dict[int, dict]:
    """What an all-reduce alone takes, for each number of processes."""
    found = {}
    for processes, timing in outcome.all_reduce.items():
        hop = outcome.hop[processes].median / (2 * (processes - 1))
        bandwidth = prediction.bandwidth_of(processes, outcome.gradient_bytes, timing.median, hop)
        found[processes] = {
            "milliseconds": {
                "median": 1000 * timing.median,
                "lowest": 1000 * min(timing.seconds),
                "highest": 1000 * max(timing.seconds),
            },
            "gbit_per_second": bandwidth / 1e9,
            "latency_microseconds": 1e6 * hop,
        }
    return found


def _predict(args: BenchOptions, outcome: Outcome) -> dict:
    """Efficiency on more nodes of one process each: measured where `from` says so, else computed."""
    processes, exchange = next(iter(_exchange(outcome).items()))
    strong = next(each for each in outcome.variants if each.processes == processes and not each.weak)
    whole = outcome.steps[ALONE].median
    measured = prediction.Measured(
        step=whole,
        backward=outcome.backward.median,
        fixed=prediction.fixed_seconds(whole, outcome.silent[strong.name].median, processes),
        gradient_bytes=outcome.gradient_bytes,
        latency=exchange["latency_microseconds"] / 1e6,
    )
    here = exchange["gbit_per_second"]
    table = [
        {
            "gbit_per_second": gbit,
            "scaling": how.__name__,
            "nodes": nodes,
            "efficiency": how(measured, nodes, gbit * 1e9)._asdict(),
        }
        for gbit in (here, *args.bandwidth)
        for how in (prediction.weak, prediction.strong)
        for nodes in prediction.NODES
    ]
    return {"from": measured._asdict(), "measured_gbit_per_second": here, "table": table}


def _parts_in_words(parts: dict[str, dict]) -> list[str]:
    width = max(len("milliseconds of a step"), *map(len, parts))
    lines = [f"{'milliseconds of a step':<{width}}" + "".join(f"  {name:>10}" for name in PARTS) + "  efficiency"]
    for name, found in parts.items():
        values = found["milliseconds_of_a_step"]
        line = f"{name:<{width}}" + "".join(f"  {values[part]:>10.3f}" for part in PARTS)
        efficiency = found["efficiency"]
        if name != ALONE:
            line += f"  {efficiency['median']:>10.3f} ({efficiency['lowest']:.3f} .. {efficiency['highest']:.3f})"
        lines.append(line)
    return [
        *lines,
        "all-reduce: step less the same step under no_sync (measured): what the backward pass does not hide of the",
        "exchange, and waiting for the slowest process; data: waiting for the next batch (measured); the rest: step",
        "less these two: what it has beyond 1 process (strong: its N-th) is memory that is shared, a small batch, or",
        "what the loop asks of all processes once in a while (may it go on, are losses finite)",
    ]


def _exchange_in_words(outcome: Outcome, exchange: dict[int, dict]) -> list[str]:
    lines = [
        f"exchanged a step: {outcome.gradient_bytes:,} bytes of gradients and {outcome.buffer_bytes:,} of batch "
        "norm's statistics (computed:",
        "sizes of trained parameters and statistics); an all-reduce of as many bytes as gradients, and nothing else:",
    ]
    for processes, found in exchange.items():
        median, lowest, highest = found["milliseconds"].values()
        lines.append(
            f"{processes} processes: {median:.3f} ms ({lowest:.3f} .. {highest:.3f}; measured), so in a ring "
            f"{found['gbit_per_second']:.3g} Gbit/s and {found['latency_microseconds']:.0f} us a hop (computed)"
        )
    return lines


def _in_words(predicted: dict) -> list[str]:
    source, here = predicted["from"], predicted["measured_gbit_per_second"]
    lines = [
        "predicted efficiency on N nodes, one such process each (computed, not measured): 1 process's step of",
        f"{1000 * source['step']:.3f} ms (strong: {1000 * source['fixed']:.3f} ms of it for any batch) and a ring "
        "all-reduce of the gradients, 2 (N - 1) / N of their bytes",
        f"and 2 (N - 1) hops of {1e6 * source['latency']:.0f} us, which begins after the backward pass .. is hidden "
        f"behind its {1000 * source['backward']:.3f} ms as far as they last",
        f"{'network':<30}" + "".join(f"  {f'N = {nodes}':>14}" for nodes in prediction.NODES),
    ]
    ranges: dict[str, list[str]] = {}
    for entry in predicted["table"]:
        gbit, found = entry["gbit_per_second"], entry["efficiency"]
        name = f"{gbit:.3g} Gbit/s{' (as here)' if gbit == here else ''}, {entry['scaling']}"
        ranges.setdefault(name, []).append(f"{found['after']:.3f} .. {found['overlapped']:.3f}")
    return lines + [f"{name:<30}" + "".join(f"  {text:>14}" for text in texts) for name, texts in ranges.items()]
