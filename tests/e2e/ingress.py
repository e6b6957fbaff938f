"""One address in front of the services, by the first level of the path: what an ingress does in Kubernetes."""

import http.client
import http.server
import threading


class Ingress:
    """Forwards `/<service>/...` to that service's port, `/kp1/...` to the gateway's. An absent service is a 503."""

    def __init__(self, port, ports):
        handler = type("Handler", (_Handler,), {"ports": ports})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="ingress", daemon=True)

    def start(self):
        self._thread.start()
        return self

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ports = {}

    def _forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service = self.path.split("/")[1].split("?")[0]
        upstream = http.client.HTTPConnection("127.0.0.1", self.ports.get(service, 0), timeout=60)
        try:
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            response = upstream.getresponse()
            self._answer(response.status, response.getheaders(), response.read())
        except (OSError, http.client.HTTPException) as error:
            self._answer(
                503, [("Content-Type", "application/json")], b'{"message": "%s"}' % repr(error).encode()
            )
        finally:
            upstream.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def _answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
