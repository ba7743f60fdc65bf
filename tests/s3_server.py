"""A real server of S3's protocol, which comes and goes."""

import logging
import re
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time
from urllib.parse import parse_qsl, urlsplit

import boto3
import httpx
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer

KEY, SECRET = "AKIAEXAMPLE", "a-secret-that-nobody-may-read"


@contextmanager
def serving(port=0, refuses=lambda environ: False, bucket="backups"):
    """An S3 server with a bucket; yields its port. It answers 403 to the requests that it `refuses`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        httpx.post(f"http://127.0.0.1:{port}/moto-api/reset", trust_env=False)  # of the servers before it
        client(port).create_bucket(Bucket=bucket)
        server._server.app = guarded(server._server.app, refuses)
        yield port
    finally:
        server.stop()


def guarded(app, refuses):
    def answer(environ, start_response):
        if not refuses(environ):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Length", "0")])
        return [b""]

    return answer


class Signatures:
    """Refuses what S3 does and moto does not: what another secret has signed, and links that have expired.

    botocore says what the signature has to be. `ahead`: seconds by which the clock of the server is.
    """

    ahead = 0

    def __call__(self, environ):
        url = f"http://{environ['HTTP_HOST']}{environ['RAW_URI']}"
        asked = dict(parse_qsl(urlsplit(url).query))
        if "X-Amz-Signature" in asked:
            return self._is_over(asked) or asked["X-Amz-Signature"] != _of_link(environ, url, asked)
        return "HTTP_AUTHORIZATION" not in environ or not _is_signed(environ, url)

    def _is_over(self, asked):
        made = datetime.strptime(asked["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return time() + self.ahead >= made.timestamp() + int(asked["X-Amz-Expires"])


def _of_link(environ, url, asked):
    unsigned = re.sub("&?X-Amz-Signature=[0-9a-f]+", "", url)
    return _signature(S3SigV4QueryAuth, environ["REQUEST_METHOD"], unsigned, {}, asked["X-Amz-Date"])


def _is_signed(environ, url):
    said = environ["HTTP_AUTHORIZATION"]
    names = re.search("SignedHeaders=([^,]+)", said)[1].split(";")
    variables = {name: name.upper().replace("-", "_") for name in names}
    headers = {name: environ.get(f"HTTP_{var}") or environ[var] for name, var in variables.items()}
    made = _signature(S3SigV4Auth, environ["REQUEST_METHOD"], url, headers, environ["HTTP_X_AMZ_DATE"])
    return said.endswith(f"Signature={made}")


def _signature(kind, method, url, headers, timestamp):
    auth = kind(Credentials(KEY, SECRET), "s3", "us-east-1")
    request = AWSRequest(method, url, headers)
    request.context["timestamp"] = timestamp
    return auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)


def client(port):
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)


@contextmanager
def silent():
    """The port of a server that lets everybody connect, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
