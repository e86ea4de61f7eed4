"""Have fork_server.py run a script: `fork_client.py SOCKET script.py ...` is `python3 script.py ...` without the wait.

SIGTERM, SIGINT, SIGHUP and SIGCONT are passed on to the script; when this process is killed, the script and all it started
are killed too.
"""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    call = {"argv": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps(call).encode() + b"\0")
    with connection.makefile() as answers:
        script = int(answers.readline())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
            signal.signal(number, lambda number, _: os.kill(script, number))
        status = int(answers.readline() or 70)  # nothing is received if the other side is gone
if status < 0:  # ended by a signal: as a shell says it
    status = 128 - status
sys.exit(status)
