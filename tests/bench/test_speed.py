"""The speed report and the README's tables, from small made-up files; and the README from the real ones."""

import json
import re
from pathlib import Path

import pytest

from recurra.bench import figure, layers, limits, position, train
from recurra.bench import speed as page
from recurra.bench.baselines import COLUMNS, LOOP, MAMBA, MINGRU, MINLSTM
from recurra.bench.readme import BEGIN, END, renewed
from recurra.bench.report import write_record, write_rows
from recurra.bench.results import devices, load
from recurra.bench.tables import factors
from recurra.cli import speed

ROOT = Path(__file__).parents[2]
MADE = {
    "cpu": "a <CPU>",
    "cores": 2,
    "native": "none",
    "torch": "2",
    "recurra": "0",
    "threads": 2,
    "command": "recurra bench something",
    "date": "2026-01-02T00:00:00",
}
CARD = {"device": "Card", "torch": "3", "date": "2026-03-04T00:00:00", "command": "python gpu.py"}
TIMED = {"repeats": 3, "q1_ms": 1.0, "q3_ms": 1.0}
WIDTH = {"batch": 64, "width": 256, "dtype": "fp32"}


def drawn(layers, graph=False):
    """Ours take a millisecond at T = 512 and 8 at 4096; others five times that."""
    for layer in layers:
        other = 5.0 if ", " in layer else 1.0
        for time in (512, 4096):
            row = {"layer": layer, **WIDTH, "time": time, "graph": graph, **TIMED}
            yield {**row, "median_ms": other * time / 512, "peak_mib": other * time, "over_recurra": other}


def of_layers():
    for name in layers.CONTENDERS:
        yield {"batch": 16, "time": 512, "width": 256, "contender": name, "median_ms": 12.34, "over_gemms": 1}


def of_positions():
    for at in (10, 20, 100):
        yield {"model": "mingru", "position": at, "median_us": 7.0, "state_mib": 0.5, "resident_mib": 9.0}


def of_steps():
    for part in ("step", "products: nn.Linear"):
        row = {"batch": 4, "context": 512, "model": "mingru", "precision": "32-true", "part": part}
        yield {**row, "median_ms": 3.0, "over_linear": 1.1, "over_all_linear": 1.05}


ROOF = (
    {"what": "copy", "dtype": "fp32", "gb_per_s": 10.0},
    {"what": "product", "dtype": "fp32", "tflop_per_s": 1.0},
    {"gate": "mingru_positive", "dtype": "fp32", "work": "forward", "gb_per_s": 9.0, "of_copy": 0.9},
)


def save(folder, stem, columns, rows, threads=2):
    write_rows(folder / f"{stem}.csv", columns, rows)
    write_record(folder / f"{stem}.json", {**MADE, "threads": threads})


@pytest.fixture
def results(tmp_path):
    """A folder of results of every kind."""
    skipped = {"layer": f"LSTM, {LOOP}", **WIDTH, "time": 9, "graph": False, "skipped": "it takes too long"}
    save(tmp_path, "figure", COLUMNS, [*drawn(figure.LAYERS), skipped])
    save(tmp_path, "roofline", limits.COLUMNS, ROOF)
    save(tmp_path, "layers", layers.COLUMNS, of_layers())
    save(tmp_path, "position", position.COLUMNS, of_positions())
    save(tmp_path, "train", train.COLUMNS, of_steps())
    save(tmp_path / "threads-1", "train", train.COLUMNS, of_steps(), threads=1)
    card = {"machine": CARD, "bandwidth": ROOF[:2], "scan": ROOF[2:]}
    names = (MINGRU, MINLSTM, "GRU, cuDNN", "LSTM, cuDNN")
    card["figure"] = [*drawn(names), *drawn(names, graph=True)]
    (tmp_path / "gpu_card.json").write_text(json.dumps(card))
    return tmp_path


def test_every_device_is_read_with_its_record(results):
    cpu, card = devices(results)
    assert (cpu.name, card.name) == ("a <CPU>", "Card")
    assert len(cpu.figure.rows) == 2 * len(figure.LAYERS) + 1
    assert [row.get("gate") for row in (*cpu.roof.rows, *cpu.scan.rows)] == [None, None, "mingru_positive"]
    first = cpu.figure.rows[0]
    assert (first["graph"], first["time"], first["median_ms"], first["skipped"]) == (False, 512, 1.0, None)
    assert load(results, "absent") is None


def test_a_roofline_of_another_machine_keeps_its_name(results):
    write_record(results / "roofline.json", {**MADE, "cpu": "another"})
    cpu, another, _ = devices(results)
    assert (cpu.name, another.name) == ("a <CPU>", "another")
    assert cpu.figure.rows
    assert another.scan.rows
    assert not cpu.roof.rows + cpu.scan.rows + another.figure.rows
    assert "of copy bandwidth on another: 90" in renewed(f"{BEGIN}\n{END}", results)


def test_factors_stand_below_those_of_the_paper(results):
    for device in devices(results):
        *published, first, last = factors(device).rows[:2] + factors(device).rows[-2:]
        assert [line["T = 4096"][:4] for line in published] == ["1324", "1361"]
        wanted = "5" if device.name == "a <CPU>" else "5 (graphs: 5)"
        assert first["T = 512"] == last["T = 4096"] == wanted
    assert MAMBA in {line["beside"] for line in factors(next(devices(results))).rows}


def test_the_page_is_one_file_that_names_machines_and_days(results, capsys):
    pytest.importorskip("matplotlib")
    readme = results / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    speed.report(results, readme)
    assert len(readme.read_text()) > 1000
    text = (results / "report.html").read_text()
    assert capsys.readouterr().out.split() == [str(readme), str(results / "report.html")]
    pictures = {path.stem for path in (results / "report").glob("*.png")}
    assert pictures == {
        *("figure-a_cpu-fp32", "figure-card-fp32", "figure-card-fp32-graphs"),
        *("roofline-a_cpu", "roofline-card", "position"),
    }
    assert text.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r"<script|https?://|src=\"(?!data:)", text)
    assert "a &lt;CPU&gt;" in text
    assert "2026-01-02: <code>recurra bench something</code>" in text
    assert "2026-03-04: <code>python gpu.py</code>" in text
    assert "Not timed: it takes too long." in text
    assert "<td>gpu_card.json</td><td>Card</td><td>2026-03-04</td><td>python gpu.py</td>" in text
    assert "ms, threads: 1</td>" in text
    assert "with the recurrence&#x27;s, 1</td>" in text
    assert "Thread scaling" not in text


def test_what_was_not_measured_says_how_it_is(tmp_path):
    text = page.write(tmp_path).read_text()
    for command in ("figure", "roofline", "position", "layers", "layers --long", "models --peers", "train"):
        assert f"recurra bench {command}" in text
    assert "benchmarks/gpu.py --all" in text
    assert "<img" not in text


def test_the_measured_part_of_a_readme_is_made_anew(results):
    text = renewed(f"before\n{BEGIN}\nold\n{END}\nafter\n", results)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| 16, 512, 256       | 12.3 " in text
    assert re.search(r"\| Card +\| GRU, cuDNN +\| 5 \(5\) +\| 5 \(5\) +\|", text)
    assert "90 to 90 % in fp32" in text
    assert max(len(line) for line in text.splitlines() if "|" not in line) <= 120
    with pytest.raises(ValueError, match="must hold the lines"):
        renewed("nothing", results)


def test_the_readme_says_what_the_result_files_say():
    """If not: recurra bench report --readme README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == renewed(text, ROOT / "results")
