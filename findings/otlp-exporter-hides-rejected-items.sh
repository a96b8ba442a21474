#!/usr/bin/env bash
# opentelemetry-exporter-otlp-proto-http and -grpc 1.45.2: a receiver that takes a request and rejects every span in it
# (`partial_success`: rejected_spans, with a reason) makes the exporters return SUCCESS. force_flush is True, nothing is
# logged even at DEBUG, and the reason is nowhere: spans that a backend threw away look as if they had arrived.
# Seen with Python 3.11 on Linux. Ends with 0 while that is so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check opentelemetry-sdk==1.45.2 \
  opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-exporter-otlp-proto-grpc==1.45.2
cat > "$dir/try.py" << 'PYTHON'
import http.server
import io
import logging
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse as Answer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.DEBUG)
rejected = Answer()
rejected.partial_success.rejected_spans = 3
rejected.partial_success.error_message = "quota exceeded"


class Http(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = rejected.SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Grpc(services.TraceServiceServicer):
    def Export(self, request, context):
        return rejected


http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Http)
threading.Thread(target=http_server.serve_forever, daemon=True).start()
grpc_server = grpc.server(futures.ThreadPoolExecutor(1))
services.add_TraceServiceServicer_to_server(Grpc(), grpc_server)
port = grpc_server.add_insecure_port("127.0.0.1:0")
grpc_server.start()
exporters = [
    OverHttp(endpoint=f"http://127.0.0.1:{http_server.server_port}/v1/traces"),
    OverGrpc(endpoint=f"http://127.0.0.1:{port}", insecure=True),
]
seen = []
for exporter in exporters:
    results = []
    plain = exporter.export
    exporter.export = lambda spans: results.append(plain(spans)) or results[-1]
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    for _ in range(3):
        with provider.get_tracer("t").start_as_current_span("span"):
            pass
    flushed = provider.force_flush()
    seen.append((flushed, [result.name for result in results], "quota" in log.getvalue()))
    print(f"{type(exporter).__module__}: force_flush {seen[-1][0]}, export {seen[-1][1]}, reason logged: {seen[-1][2]}")
sys.exit(0 if seen == [(True, ["SUCCESS"], False)] * 2 else 1)
PYTHON
"$dir/venv/bin/python" "$dir/try.py"
