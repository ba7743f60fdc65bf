"""A receiver of traces: OTLP over HTTP, as a collector of OpenTelemetry speaks it."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """All that came."""

    TRACE = "0af7651916cd43dd8448eb211c80319c"  # of the caller in the tests

    def __init__(self):
        self.bodies = []
        self.seconds = 0.0  # that it takes for an answer
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    time.sleep(collector.seconds)
                    collector.bodies.append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._serving = threading.Thread(target=self._server.serve_forever)
        self._serving.start()

    def spans(self, trace):
        received = [ExportTraceServiceRequest.FromString(body) for body in list(self.bodies)]
        scopes = [scope for one in received for of in one.resource_spans for scope in of.scope_spans]
        return [span for scope in scopes for span in scope.spans if span.trace_id.hex() == trace]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()


def attributes(span):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}
