"""A real server of S3's protocol, which comes and goes."""

import logging
import socket
from contextlib import contextmanager

import boto3
import httpx
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


def client(port):
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)


def a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
