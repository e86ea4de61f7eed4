"""Have zygote.py run a script: `fork.py SOCKET script.py ...` is `python3 script.py ...` without the wait for libraries."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    call = {"argv": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(connection, [b" "], [0, 1, 2])
    connection.sendall(json.dumps(call).encode())
    connection.shutdown(socket.SHUT_WR)
    status = int(connection.recv(16) or 70)  # nothing is received if the other side is gone
if status < 0:  # ended by a signal: as a shell says it
    status = 128 - status
sys.exit(status)
