"""Writes results as JSON, as a page with tables, and as plots in SVG and PNG."""

import json
import os
import shlex


# The folder of the documentation, which pages of results link to.
DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs")


def save(folder, results):
    with open(os.path.join(folder, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


def read(folder):
    with open(os.path.join(folder, "results.json")) as file:
        return json.load(file)


def write(folder, results):
    save(folder, results)
    with open(os.path.join(folder, "README.md"), "w") as file:
        file.write("\n\n".join(filter(None, page(folder, results))) + "\n")
    draw(folder, results)


# ---- The page.


def page(folder, results):
    machine = results["machine"]
    yield f"# Probes side by side, {machine['date'][:10]}"
    to_docs = os.path.relpath(DOCS, folder)
    about = f"[BENCHMARKS.md]({to_docs}/BENCHMARKS.md)"
    yield f"What these figures show and what they do not: {about}."
    kind = "virtual machine" if machine["virtual"] else "machine"
    yield "\n".join(
        [
            f"* {machine['cores']}-core {machine['processor']} {kind}, {machine['memory']}, "
            f"{machine['system']}, Linux {machine['kernel']}",
            f"* {'; '.join(filter(None, results['versions'].values()))}; "
            f"this tree: {machine['commit']}, {machine['rustc']}",
            f"* `{results['command']}`, begun {machine['date']}",
        ]
    )
    if results["capture"]:
        yield from capture_page(results["capture"])
    if results["live"]:
        yield from live_page(results["live"])
    if results["zero_loss"]:
        yield from zero_loss_page(results["zero_loss"])
    if results["failed"]:
        yield "## Failed measurements"
        yield "\n".join(
            f"* {run['peer']}, {run['pattern']}, {run['rate'] or 'flat out'}: "
            + run["error"].splitlines()[0]
            for run in results["failed"]
        )
    yield from command_page(results)


def capture_page(measured):
    yield "## Capture files"
    for kind in names(measured, "capture"):
        runs = [run for run in measured if run["capture"] == kind]
        truth, repeat = runs[0]["truth"], len(runs[0]["runs"])
        yield (
            f"{kind}: {truth['packets']} packets, {truth['flows']} flows, "
            f"{truth['file_octets'] / 1e9:.2f} GB, in the page cache. "
            f"Median of {repeat}."
        )
        yield table(
            (
                "",
                "wall s",
                "million packets/s",
                "CPU s",
                "user",
                "system",
                "peak MB",
                "records",
                "packets accounted",
                "octets",
                "totals",
            ),
            [
                (
                    run["peer"],
                    f"{run['wall_s']:.2f}",
                    f"{run['pps'] / 1e6:.2f}",
                    f"{run['cpu_s']:.2f}",
                    f"{run['user_s']:.2f}",
                    f"{run['system_s']:.2f}",
                    f"{run['memory_max_octets'] / 1e6:.0f}",
                    run["collected"]["records"],
                    share(run["collected"]["packets"], truth["packets"]),
                    share(run["collected"]["octets"], truth["octets"]),
                    "right" if run["right"] else "wrong",
                )
                for run in runs
            ],
        )
    yield "![Capture files](capture.svg)"


def live_page(measured):
    yield "## Live, on veth"
    for pattern in names(measured, "pattern"):
        runs = [run for run in measured if run["pattern"] == pattern]
        yield f"### {pattern}"
        yield table(
            (
                "",
                "asked",
                "offered/s",
                "accounted/s",
                "share",
                "user s per million",
                "user and system",
                "with softirqs",
                "octets",
            ),
            [
                (
                    run["peer"],
                    "flat out" if run["rate"] is None else run["rate"],
                    f"{run['offered_pps']:.0f}",
                    f"{run['accounted_pps']:.0f}",
                    share(run["accounted"], run["offered"]) if run["peer"] != "nobody" else "",
                    seconds(run["user_s_per_million"]),
                    seconds(run["cpu_s_per_million"]),
                    seconds(run["cpu_softirq_s_per_million"]),
                    "right" if run["octets_right"] else "",
                )
                for run in runs
            ],
        )
    yield (
        "![Share of packets accounted](live-share.svg)\n"
        "![CPU time per million packets](live-cpu.svg)"
    )


def zero_loss_page(measured):
    yield "## Zero-loss rate"
    tries = measured[0]["tries"]
    trials = f", in at least one of {tries} trials" if tries > 1 else ""
    yield (
        f"Highest rate without loss for {measured[0]['seconds']:g} s, in packets/s "
        f"(RFC 2544, section 26.1){trials}. "
        "≥: the generator is the limit; nothing of what it sent was lost."
    )
    patterns = names(measured, "pattern")
    found = {
        (run["peer"], run["pattern"]): ("≥ " if run["generator_is_limit"] else "")
        + f"{run['pps']:.0f}"
        for run in measured
    }
    yield table(
        ("", *patterns),
        [
            (peer, *(found.get((peer, pattern), "") for pattern in patterns))
            for peer in names(measured, "peer")
        ],
    )
    yield "![Zero-loss rate](zero-loss.svg)"


def command_page(results):
    yield "## Command lines"
    lines, configurations = {}, {}
    for run in results["capture"] + results["live"]:
        how = "capture file" if "capture" in run else "live"
        lines.setdefault(f"{run['peer']}, {how}", run["command"])
        configurations.setdefault(f"{run['peer']}'s configuration, {how}", run["configuration"])
        if "pattern" in run:
            lines.setdefault(f"traffic, {run['pattern']}", run["traffic"])
    yield "\n".join(f"    {what}: {shlex.join(command)}" for what, command in lines.items())
    for what, text in configurations.items():
        if text:
            yield f"{what}:"
            yield "\n".join("    " + line for line in text.splitlines())


def table(head, rows):
    line = lambda cells: "| " + " | ".join(map(str, cells)) + " |"
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def names(measured, key):
    """Returns each value of a key once, in order of appearance."""
    return list(dict.fromkeys(run[key] for run in measured))


def share(part, whole):
    """A share as text: "100 %" only if not one packet was lost."""
    return (
        "100 %"
        if part == whole
        else f"{100 * (min(part / whole, 0.9999) if part < whole else part / whole):.2f} %"
    )


def seconds(value):
    return "" if value is None else f"{value:.3f}"


# ---- The plots.

COLOURS = {
    "xdprobe": "#d62728",
    "fprobe": "#1f77b4",
    "softflowd": "#2ca02c",
    "pmacctd": "#9467bd",
    "nfpcapd": "#ff7f0e",
    "nobody": "#7f7f7f",
}


def draw(folder, results):
    pyplot, save_figure = easel(folder, results["machine"])
    if results["capture"]:
        save_figure(
            bars(
                pyplot,
                results["capture"],
                "capture",
                "Capture file: million packets per second",
                lambda run: run["pps"] / 1e6,
                lambda run: run["right"],
            ),
            "capture",
        )
    if results["zero_loss"]:
        save_figure(
            bars(
                pyplot,
                results["zero_loss"],
                "pattern",
                "Zero-loss rate: million packets per second",
                lambda run: run["pps"] / 1e6,
                lambda run: True,
            ),
            "zero-loss",
        )
    if results["live"]:
        save_figure(
            curves(
                pyplot,
                results["live"],
                "packets that reach the collector, %",
                lambda run: 100 * run["share"] if run["peer"] != "nobody" else None,
            ),
            "live-share",
        )
        save_figure(
            curves(
                pyplot,
                results["live"],
                "CPU s per million packets, with softirqs",
                lambda run: run["cpu_softirq_s_per_million"],
                log=True,
            ),
            "live-cpu",
        )


def easel(folder, machine):
    """Returns pyplot, and a function that saves a figure as SVG and PNG with a caption."""
    import matplotlib

    matplotlib.use("Agg")
    # The same results give the same file.
    matplotlib.rcParams |= {
        "svg.hashsalt": "xdprobe",
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.axisbelow": True,
    }
    from matplotlib import pyplot

    caption = (
        f"{machine['cores']}-core {machine['processor']}, Linux {machine['kernel']}, "
        f"{machine['date'][:10]}"
    )

    def save_figure(figure, name):
        figure.text(0.99, 0.01, caption, ha="right", fontsize=6, alpha=0.6)
        figure.tight_layout(rect=(0, 0.02, 1, 1))
        for kind in ("svg", "png"):
            metadata = {"Date": None} if kind == "svg" else {}
            figure.savefig(os.path.join(folder, f"{name}.{kind}"), dpi=120, metadata=metadata)
        pyplot.close(figure)

    return pyplot, save_figure


def bars(pyplot, measured, group, title, value, is_right):
    groups, probes = names(measured, group), names(measured, "peer")
    figure, axes = pyplot.subplots(figsize=(2 + 2 * len(groups), 4))
    width = 0.8 / len(probes)
    for at, probe in enumerate(probes):
        runs = {run[group]: run for run in measured if run["peer"] == probe}
        present = [(place, runs[name]) for place, name in enumerate(groups) if name in runs]
        drawn = axes.bar(
            [place + (at - (len(probes) - 1) / 2) * width for place, _ in present],
            [value(run) for _, run in present],
            width,
            label=probe,
            color=COLOURS.get(probe),
        )
        axes.bar_label(
            drawn,
            [f"{value(run):.2g}" + ("" if is_right(run) else "*") for _, run in present],
            fontsize=7,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_title(title + ("" if all(map(is_right, measured)) else " (* totals wrong)"))
    axes.legend(fontsize=7)
    return figure


def curves(pyplot, measured, label, value, log=False):
    patterns = names(measured, "pattern")
    figure, plots = pyplot.subplots(
        1, len(patterns), figsize=(1 + 3.2 * len(patterns), 3.6), sharey=True, squeeze=False
    )
    for axes, pattern in zip(plots[0], patterns):
        for probe in names(measured, "peer"):
            runs = [
                run
                for run in measured
                if run["peer"] == probe and run["pattern"] == pattern and value(run) is not None
            ]
            if not runs:
                continue
            runs.sort(key=lambda run: run["offered_pps"])
            axes.plot(
                [run["offered_pps"] for run in runs],
                [value(run) for run in runs],
                marker="o",
                markersize=3,
                label=probe,
                color=COLOURS.get(probe),
            )
        axes.set_title(pattern)
        axes.set_xscale("log")
        axes.set_xlabel("offered packets/s")
        if log:
            axes.set_yscale("log")
    plots[0][0].set_ylabel(label)
    plots[0][0].legend(fontsize=7)
    return figure
