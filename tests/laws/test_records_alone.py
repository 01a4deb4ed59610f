"""Law 6: nothing is shown that is not recorded; tables are made of records alone."""

import json
import shutil

import pytest
from tinyzoo import Bench

from kdzoo import api, cli


def test_page_and_table_are_the_same_from_records_alone(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(bench.command("scratch,kd,reffakd,diverging", "--seeds", "2")) == 0
    shown = capsys.readouterr().out
    work = bench.folder / "work"
    page = (work / "leaderboard.md").read_text()
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_file() and path.name != "record.json":
            path.unlink()
    shutil.rmtree(work / "artifacts")
    bench.config.unlink()
    output = bench.folder / "again.md"
    assert cli.main(["leaderboard", str(work), "--output", str(output)]) == 0
    assert output.read_text() == page
    table = capsys.readouterr().out.split(f"\n\n8 records: {output}")[0].strip()
    assert table
    assert table in shown


def test_rows_of_python_come_from_the_records_on_disk(bench: Bench) -> None:
    """What is in a file is what is shown, not what was in memory when it was made."""
    bench.run("scratch")
    path = next((bench.folder / "work").rglob("record.json"))
    content = json.loads(path.read_text())
    content["timing"]["seconds_per_epoch"] = 4321.0
    path.write_text(json.dumps(content))
    results = api.run(**bench.options("scratch"), threads=1)
    assert [row["method"] for row in results.rows] == ["scratch"]
    assert "4321.0" in str(results.rows)
    assert "4321.0" in results.table


def test_different_protocols_never_share_a_table(bench: Bench) -> None:
    bench.run("scratch,kd+uniform")
    one = bench.run("scratch", epochs=1)
    assert len(list((bench.folder / "work").rglob("record.json"))) == 3
    output = bench.folder / "page.md"
    assert cli.main(["leaderboard", str(bench.folder / "work"), "--output", str(output)]) == 0
    assert output.read_text().count("\n## ") == 2
    assert one.leaderboard.count("\n## ") == 1
