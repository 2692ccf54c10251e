"""Figures to medians, ratios and tables."""

import statistics

BASIS = "plaintext"


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(values, basis):
    """`values` over `basis`, both by round: the ratio of the medians, and the least and the
    greatest ratio within one round. Rounds in which either is missing are left out."""
    pairs = [(values[round_], basis[round_]) for round_ in values if round_ in basis]
    if not pairs or any(below == 0 for _, below in pairs):
        return None
    by_round = [above / below for above, below in pairs]
    medians = [statistics.median(column) for column in zip(*pairs)]
    return {"median": medians[0] / medians[1], "min": min(by_round), "max": max(by_round)}


def best_ratio(values, basis, better):
    """The best of the one over the best of the other: what disturbs the machine only ever slows."""
    best = min if better == "lower" else max
    return best(values) / best(basis) if basis and best(basis) else None


def summarise(samples, better):
    """{system: {round: Sample}} to {system: figures}; `better` is "lower" or "higher"."""
    figures = {}
    column = {name: {system: {number: getattr(sample, name) for number, sample in rounds.items()}
                     for system, rounds in samples.items()}
              for name in ("value", "cpu_us_per_operation")}
    for system, rounds in samples.items():
        if not rounds:
            continue
        figures[system] = {"rounds": [{"round": number, "value": sample.value,
                                       "cpu_us_per_operation": sample.cpu_us_per_operation,
                                       **sample.detail}
                                      for number, sample in sorted(rounds.items())]}
        for name, by_system in column.items():
            figures[system][name] = {
                **spread(by_system[system].values()),
                "to_plaintext": ratio(by_system[system], by_system.get(BASIS, {})),
                "to_native": ratio(by_system[system], by_system.get("native", {})),
            }
        values = column["value"]
        figures[system]["value"]["best_to_plaintext"] = best_ratio(
            values[system].values(), values.get(BASIS, {}).values(), better)
    return figures


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return "%.0f" % value
    return "%.1f" % value if abs(value) >= 100 else "%.2f" % value


def table(head, rows):
    """The first column to the left, the others to the right."""
    rows = [head] + [[cell if isinstance(cell, str) else number(cell) for cell in row]
                     for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                         for column, (cell, width) in enumerate(zip(row, widths)))
        for row in rows)


def _ratio_cells(found, with_range):
    if found is None:
        return ["-", "-"] if with_range else ["-"]
    cells = ["%.2f" % found["median"]]
    return cells + (["%.2f-%.2f" % (found["min"], found["max"])] if with_range else [])


def workload_text(workload, figures, left_out, pinned):
    rows = []
    for system, found in figures.items():
        value, cpu = found["value"], found["cpu_us_per_operation"]
        rows.append([system, value["median"], value["min"], value["max"],
                     *_ratio_cells(value["to_plaintext"], True), value["best_to_plaintext"],
                     *_ratio_cells(value["to_native"], False),
                     cpu["median"], *_ratio_cells(cpu["to_plaintext"], False)])
    head = [workload.unit, "median", "min", "max", "to plaintext", "(by round)", "best",
            "to native", "CPU us/%s" % workload.operation, "to plaintext"]
    where = "on one processor; " if pinned else ""
    return "\n".join(["%s: %s; %s%s is better" % (workload.name, workload.title, where,
                                                  workload.better),
                      table(head, rows), *_left_out_lines(left_out)])


def _left_out_lines(left_out):
    return ["  %s: %s" % (system, why) for system, why in left_out.items()]


ROLES = ("client", "server", "proxies")


def summarise_idle(samples):
    """{system: [measure()]} to {system: {"process" and "connection": {role: figures}}}."""
    return {system: {part: {role: spread([sample[part][role] for sample in found])
                            for role in ROLES}
                     for part in ("process", "connection")}
            for system, found in samples.items() if found}


def idle_text(workload, figures, left_out):
    rows = []
    for system, found in figures.items():
        each = [found["connection"][role]["median"] for role in ROLES]
        base = [found["process"][role]["median"] for role in ROLES]
        rows.append([system, *each, sum(each), *base, sum(base)])
    head = ["KiB", *("%s/connection" % role for role in ROLES), "sum",
            *("%s alone" % role for role in ROLES), "sum"]
    title = "%s: %s (%d of them); alone: with one connection" % (workload.name, workload.title,
                                                                 workload.connections)
    return "\n".join([title, table(head, rows), *_left_out_lines(left_out)])


def summarise_library(times, memory):
    return {name: {**{unit: spread(values) for unit, values in times[name].items()}, **memory[name]}
            for name in times}


def library_text(figures):
    basis = figures["without"]
    rows = [[name, found["ms"]["median"], found["ms"]["min"], found["ms"]["max"],
             found["ms"]["median"] - basis["ms"]["median"], found["cpu_ms"]["median"],
             found["private_kib"], found["private_kib"] - basis["private_kib"],
             found["library_private_kib"], found["library_resident_kib"]]
            for name, found in figures.items()]
    head = ["of `true`, of `sleep`", "ms median", "min", "max", "more", "CPU ms",
            "private KiB", "more", "of the library's file", "its resident KiB"]
    return "library: starting a process, and what of its memory is private\n" + table(head, rows)


def unmanaged_text(figures):
    rows = []
    for name, found in figures.items():
        hooked, null = found["hooked"], found["null"]
        rows.append([name, hooked["libc_ns"], *(hooked["more_ns"][i] for i in (1, 0, 2)), hooked["ratio"][1],
                     *(null["more_ns"][i] for i in (1, 0, 2)), null["ratio"][1]])
    head = ["ns for each call", "C library", "more, by pair", "1st quartile", "3rd", "ratio",
            "noise: more", "1st quartile", "3rd", "ratio"]
    return "unmanaged: calls on descriptors that are none of inlay's business\n" + table(head, rows)


def agent_text(signatures, attached):
    rows = [[found["what"], found["median_us"], found["p10_us"], found["p90_us"]] for found in signatures]
    text = "agent: a signature of P-256\n" + table(["us", "median", "p10", "p90"], rows)
    rows = [[str(count), found["kib"], found["first_ms"], found["last_ms"]]
            for count, found in attached.items()]
    return text + "\nagent: processes attached, and a new SVID in its files (looked at once a second)\n" + table(
        ["processes", "agent KiB", "first told after ms", "last"], rows)


def authority_text(rates, joining):
    rows = [[found["what"], *(found.get(key, found.get("left_out", "")) for key in
                              ("per_second", "cpu_ms", "idle_kib", "kib"))] for found in rates]
    text = "authority: SVIDs issued, each over a connection of its own\n" + table(
        ["", "a second", "CPU ms each", "KiB idle", "KiB then"], rows)
    rows = [[what, joining[key]] for what, key in (
        ("the machine is enrolled", "enrolled_ms"), ("its agent has its SVIDs", "ready_ms"),
        ("a client has its server's answer", "answered_ms"))]
    return text + "\nauthority: from the start of inlay enroll\n" + table(["until", "ms"], rows)


def machine_text(machine):
    width = max(len(key) for key in machine)
    return "\n".join("  %s  %s" % (key.ljust(width), value) for key, value in machine.items())
