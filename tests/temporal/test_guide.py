"""The blocks of the guide run, each in the part of a program that it is about."""

from __future__ import annotations

import ast
import importlib
import logging
from datetime import timedelta
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from trio_mcp_pool import StdioServer

from ..pages import DOCS, programs

PAGE = "guide/temporal.md"
WORKFLOW = "from datetime import timedelta\nfrom temporalio import workflow\n"


def test_the_blocks_of_the_guide_run(address: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, flow, failure, observer = (block.code for block in programs(PAGE))
    (tmp_path / "research_of_the_guide.py").write_text(WORKFLOW + flow)
    monkeypatch.syspath_prepend(tmp_path)
    research = importlib.import_module("research_of_the_guide").Research
    names = {"Research": research, "log": logging.getLogger("program"), "servers": {"files": StdioServer("files-mcp")}}

    async def main() -> None:
        compiled = compile(worker, str(DOCS / PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await FunctionType(compiled, {**names, "client": await Client.connect(address)})()

    run(main)
    known = {"server": "files", "outcome": "not run"}
    names |= {"ApplicationError": ApplicationError, "known": known, "workflow": workflow, "timedelta": timedelta}
    exec(compile(f"try:\n    raise ApplicationError('no', known)\n{failure}", PAGE, "exec"), names)
    exec(compile(observer, PAGE, "exec"), names)
