"""The commands and examples of docs/live.md, one after the other in an empty folder."""

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "live.md"


def test_the_page_runs_as_printed(tmp_path, monkeypatch, run_command):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks].count("python") == 2
    for language, block in blocks:
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), {"__name__": "example"})
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "atft-engine"
            code, out, err = run_command(*arguments)
            assert (code, err) == (0, ""), line
            if arguments[0] == "predict" and "--json" not in arguments:
                assert [row.split("│")[2].strip()[0] for row in out.splitlines() if row.startswith("│")] == ["S"] * 6
