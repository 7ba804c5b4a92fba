"""The guide's application for FastAPI, word for word, under uvicorn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "asyncio.md"
SERVER = """
import anyio
from mcp.server import MCPServer

server = MCPServer("words")


@server.tool()
async def look_up(text: str) -> dict[str, str]:
    await anyio.sleep(60 if text == "slow" else 0)
    return {"word": text}


server.run()
"""


def get(url: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_guides_application_answers_bounds_a_call_and_ends_without_a_process_left(tmp_path: Path) -> None:
    [block] = [code for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "FastAPI(" in code]
    (tmp_path / "app.py").write_text(block)
    (tmp_path / "words_server.py").write_text(SERVER)
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    root = os.pathsep.join([str(GUIDE.parents[2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PATH": path, "PYTHONPATH": root},
    ) as serving:
        said: list[str] = []
        try:
            assert serving.stderr is not None
            for line in serving.stderr:
                said.append(line)
                if found := re.search(r"running on (http://[\d.:]+)", line):
                    break
            else:
                raise AssertionError("".join(said))
            assert get(f"{found[1]}/look-up/hello") == (200, {"word": "hello"})
            assert get(f"{found[1]}/look-up/slow") == (504, {"detail": "the server took too long"})
            assert get(f"{found[1]}/look-up/again") == (200, {"word": "again"})
        finally:
            serving.terminate()
            # It ends when the pool has closed, and with the last process that holds its stderr.
            said += serving.communicate(timeout=30)[1].splitlines(keepends=True)
    assert "Application shutdown complete" in "".join(said)
    assert "Traceback" not in "".join(said)
