"""Tables of the speed report and of the README, from rows that were read back."""

from collections.abc import Iterator, Sequence

from recurra.bench.baselines import LOOP, MAMBA, MINGRU, MINLSTM, rival
from recurra.bench.page import Table
from recurra.bench.paper import FACTORS
from recurra.bench.report import Row, cell
from recurra.bench.results import Device, Measured
from recurra.bench.roofline import roofs

__all__ = [
    "factor",
    "factors",
    "layer_times",
    "memory",
    "pivot",
    "positions",
    "roof_rows",
    "roof_shares",
    "scan_shares",
    "thread_times",
]

TIMES = (32, 512, 4096)


def pivot(rows: Sequence[Row], by: str, against: str, value: str) -> Table:
    """One line for each of `by`, one column for each of `against`."""
    heads = list(dict.fromkeys(row[against] for row in rows))
    lines: dict[object, Row] = {row[by]: {by: row[by]} for row in rows}
    for row in rows:
        lines[row[by]][f"{row[against]:,}"] = row.get(value)
    return Table([by, *(f"{head:,}" for head in heads)], list(lines.values()))


def published() -> Iterator[Row]:
    """The paper's own factors."""
    for kind in ("GRU", "LSTM"):
        found = [f for f in FACTORS if f.kind == kind]
        cells = {f"T = {f.time}": f"{cell(f.value)} ({f.tag})" for f in found}
        yield {"recurra's": f"the paper's min{kind}", "beside": f"{kind}, which one is not known", **cells}


def factors(device: Device) -> Table:
    """How many times longer each takes than recurra's layer, without a CUDA graph and with one."""
    rows = [row for row in device.figure.rows if row["layer"] not in (MINGRU, MINLSTM)]
    lines = list(published())
    for layer, dtype, width in dict.fromkeys((row["layer"], row["dtype"], row["width"]) for row in rows):
        of = [row for row in rows if (row["layer"], row["dtype"], row["width"]) == (layer, dtype, width)]
        cells = {f"T = {time}": factor([row for row in of if row["time"] == time]) for time in TIMES}
        if any(cells.values()):
            lines.append({"recurra's": rival(layer), "beside": layer, "dtype": dtype, "D": width, **cells})
    return Table(("recurra's", "beside", "dtype", "D", *(f"T = {time}" for time in TIMES)), lines)


def factor(rows: Sequence[Row], graphs: str = "graphs: ") -> str:
    """How many times longer, and in brackets, behind that word, as a CUDA graph."""
    found = {row["graph"]: cell(row["over_recurra"]) for row in rows if row.get("over_recurra")}
    plain, graph = found.get(False, ""), found.get(True, "")
    return f"{plain} ({graphs}{graph})" if graph else plain


def memory(device: Device) -> Table:
    """Peak of a step in MiB, and over that of the loop over cells."""
    rows = [row for row in device.figure.rows if row.get("peak_mib") and not row["graph"]]
    lines = []
    for layer, dtype, width in dict.fromkeys((row["layer"], row["dtype"], row["width"]) for row in rows):
        found = {
            (row["layer"], row["time"]): row["peak_mib"]
            for row in rows
            if (row["dtype"], row["width"]) == (dtype, width)
        }
        line = {"layer": layer, "dtype": dtype, "D": width}
        for time in TIMES[1:]:
            mib, loop = found.get((layer, time)), found.get((_loop(layer), time))
            line |= {f"T = {time}": mib, f"over the loop's, {time}": mib / loop if mib and loop else None}
        lines.append(line)
    heads = [head for time in TIMES[1:] for head in (f"T = {time}", f"over the loop's, {time}")]
    return Table(("layer", "dtype", "D", *heads), [line for line in lines if any(line.get(h) for h in heads)])


def _loop(layer: str) -> str:
    """The loop over cells that a layer stands against; Mamba stands against none."""
    return "" if layer == MAMBA else f"{'LSTM' if 'LSTM' in layer else 'GRU'}, {LOOP}"


def roof_rows(device: Device) -> Table:
    """What the machine gives at the most."""
    return Table(("what", "dtype", "median_ms", "gb_per_s", "tflop_per_s"), device.roof.rows)


def roof_shares(device: Device, times: Sequence[int] = (512, 4096)) -> Table:
    """What the layers reach of what memory and products allow."""
    heads = ("layer", "dtype", "D", "T", "operations a byte", "TFLOP/s", "allowed", "share, %")
    lines = []
    for roof in roofs(device):
        for p in (p for p in roof.points if p.time in times):
            allowed = roof.allowed(p.intensity)
            share = 100 * p.tflop_per_s / allowed
            values = (p.layer, roof.dtype, p.width, p.time, p.intensity, p.tflop_per_s, allowed, share)
            lines.append(dict(zip(heads, values, strict=True)))
    return Table(heads, lines)


def scan_shares(device: Device) -> Table:
    """The recurrence alone at a gigabyte or what comes nearest to it."""
    heads = ("gate", "work", "dtype", "batch", "time", "width", "GB/s", "of a copy, %")
    rows = [row for row in device.scan.rows if row.get("shape", "1 GiB") == "1 GiB" and "of_copy" in row]
    return Table(
        heads,
        [{**row, "GB/s": row["gb_per_s"], "of a copy, %": 100 * row["of_copy"]} for row in rows],
    )


def positions(rows: Sequence[Row]) -> Table:
    """Microseconds a token at powers of ten, and the state at the last of them."""
    tens = [row for row in rows if set(str(row["position"])[1:]) <= {"0"} and str(row["position"])[0] == "1"]
    table = pivot(tens, "model", "position", "median_us")
    for line in table.rows:
        of = [row for row in rows if row["model"] == line["model"]]
        line |= {"MiB, state at the first": of[0]["state_mib"], "at the last": of[-1]["state_mib"]}
    return table._replace(columns=[*table.columns, "MiB, state at the first", "at the last"])


def thread_times(found: Sequence[Measured]) -> Table:
    """A training step with as many threads as each file was made with."""
    lines: dict[object, Row] = {}
    for rows, made in found:
        for row in (row for row in rows if row["part"] == "step" and not row.get("over_shortest")):
            place = {name: row[name] for name in ("model", "precision", "batch", "context")}
            line = lines.setdefault(tuple(place.values()), place)
            line |= {f"ms, threads: {made['threads']}": row["median_ms"]}
            line |= {f"over nn.Linear's products, {made['threads']}": row["over_linear"]}
            if row.get("over_all_linear"):
                line |= {f"with the recurrence's, {made['threads']}": row["over_all_linear"]}
    return Table(list(dict.fromkeys(head for line in lines.values() for head in line)), list(lines.values()))


def layer_times(measured: Measured) -> Table:
    """MinGRU and MinLSTM beside torch.nn's layers and an nn.Linear of their size, in ms."""
    names = {
        "MinGRU": MINGRU,
        "nn.GRU": "nn.GRU",
        "GRU's nn.Linear": "its GEMMs (D -> 2D)",
        "MinLSTM": MINLSTM,
        "nn.LSTM": "nn.LSTM",
        "LSTM's nn.Linear": "its GEMMs (D -> 3D)",
    }
    lines = []
    for shape in dict.fromkeys((row["batch"], row["time"], row["width"]) for row in measured.rows):
        times = {
            row["contender"]: row["median_ms"]
            for row in measured.rows
            if (row["batch"], row["time"], row["width"]) == shape
        }
        line = {head: times.get(name) for head, name in names.items()}
        lines.append({"batch, time, width": ", ".join(map(str, shape)), **line})
    return Table(("batch, time, width", *names), lines)
