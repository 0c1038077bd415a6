"""A server in a process of its own, whose memory can be read: scripted providers, and a short patience."""

import sys

from ops_server import scripted

from resilience.ops.connection import Connection
from resilience.ops.serve import Server, address, listen

Connection.head_seconds = 1.0
runtime = scripted()
listener = listen("127.0.0.1", 0)
sys.stdout.write(address(listener) + "\n")
sys.stdout.flush()
Server(runtime, drain_seconds=5).run(sockets=[listener])
sys.exit(0)
