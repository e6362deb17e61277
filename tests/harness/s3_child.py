"""S3-compatible storage, as a process: `python s3_child.py PORT`.

One request at a time, which `moto.server` has no option for: moto looks whether a
condition holds and then writes, with no lock around both, as no S3 does.
"""

import os
import sys

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

if __name__ == "__main__":
    port = int(sys.argv[1])
    os.environ["MOTO_PORT"] = str(port)
    app = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, app, request_handler=MotoRequestHandler)
