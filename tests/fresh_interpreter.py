"""Interpreters that have imported slow packages already, but neither this one nor fastreid nor torchvision; ``warm`` ones
have imported these as well.

A server of each kind imports them once and forks; to the program it is as if it had just started. What depends on the
first moments of a process (threads, variables of the environment that libraries read when they are loaded) needs one of
its own.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile

from helpers import REPOSITORY

_SERVER = """
import json, os, runpy, sys, traceback
import faiss, numba, scipy.stats, sklearn.metrics, tensorboard, torch, torch._dynamo, torch.utils.data
if WARM:
    import ise_plugin.engine
else:
    assert not {"ise_plugin", "fastreid", "torchvision"} & set(sys.modules)

def begin(job, environment):
    if job["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(job["environment"], **environment)
    os.chdir(job["folder"])
    for descriptor, path in enumerate([os.devnull, job["stdout"], job["stderr"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), descriptor)
    sys.path[:0] = job["environment"].get("PYTHONPATH", "").split(os.pathsep)

for line in sys.stdin:
    job, children = json.loads(line), []
    for environment in job["processes"]:
        children.append(os.fork())
        if children[-1] == 0:
            begin(job, environment)
            sys.argv = job["arguments"]
            if job["code"] is None:
                runpy.run_path(sys.argv[0], run_name="__main__")
            else:
                exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
            sys.exit()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(next(filter(None, codes), 0), flush=True)
"""
_servers: dict = {}


def run(
    *arguments, code=None, environment=None, new_session=False, processes=({},), warm=False
) -> subprocess.CompletedProcess:
    """Runs a script with its arguments, or a piece of code, to its end; ``environment`` is added to that of the test.

    With several ``processes``, what each has in its environment besides, all run at once; the exit code is the first
    that is not 0.
    """
    if warm not in _servers:
        command = [sys.executable, "-W", "ignore", "-c", f"WARM = {warm}\n{_SERVER}"]
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        _servers[warm] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        atexit.register(_servers[warm].communicate)  # the end of its input ends it
    server = _servers[warm]
    with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
        job = {
            "arguments": [str(argument) for argument in arguments] or ["-c"],
            "code": code,
            "environment": {**os.environ, **(environment or {})},
            "folder": os.getcwd(),
            "new_session": new_session,
            "processes": list(processes),
            "stdout": stdout.name,
            "stderr": stderr.name,
        }
        print(json.dumps(job), file=server.stdin, flush=True)
        return subprocess.CompletedProcess(
            job["arguments"], int(server.stdout.readline()), stdout.read(), stderr.read()
        )


def as_of_torchrun(count: int) -> list[dict]:
    """``processes`` with what torchrun gives each of so many in its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
