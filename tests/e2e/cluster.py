"""The platform as separate processes, each started again when it dies: the shape that Kubernetes gives it."""

import json
import os
import secrets
import shutil
import signal
import subprocess

from ingress import Ingress
from processes import Supervised, accepts, bandar, eventually, free_ports, nats_server, postgres_program, spawn
from rest import Api, request

STORING = ("tekton", "epr", "cm", "epts")
DATABASE_USER = "postgres"


class Cluster:
    """nats-server, PostgreSQL, and one `bandar run` for each service and each replica of the gateway."""

    def __init__(self, directory, gateways=1):
        self.directory = directory
        self.processes = {}
        self._ingress = None
        try:
            self._start(gateways)
        except BaseException:
            self.stop()
            raise

    def _start(self, gateways):
        key = secrets.token_hex(20)
        # What `bandar up` keeps for its users, for programs that look for it there.
        self.data = self.directory / "data"
        self.data.mkdir()
        (self.data / "credentials.json").write_text(json.dumps({"tenant": "e2e", "apiKey": key}))
        nats_port, self.database_port, ingress_port, *ports = free_ports(3 + 5 + 2 * gateways)
        self._start_nats(nats_port)
        self._start_postgres(self.database_port)

        environment = {
            "NATS_URL": f"nats://127.0.0.1:{nats_port}",
            "DATABASE_URL": f"postgres://{DATABASE_USER}@127.0.0.1:{self.database_port}/postgres",
            "BANDAR__HTTP__AUTH__API_KEY": key,
            "BANDAR__HTTP__AUTH__TENANT": "e2e",
            "BANDAR__CM__TOKEN_KEY": secrets.token_hex(32),
        }
        self.http_ports = http_ports = dict(zip([*STORING, "dcx"], ports))
        self.mqtt_ports = ports[5 : 5 + gateways]
        for service, port in http_ports.items():
            self._start_service(service, service, port, environment)
        for index, (mqtt_port, port) in enumerate(zip(self.mqtt_ports, ports[5 + gateways :])):
            listen = {"BANDAR__KPC__MQTT__LISTEN": f"127.0.0.1:{mqtt_port}"}
            name = "kpc" if index == 0 else f"kpc-{index}"
            self._start_service(name, "kpc", port, {**environment, **listen})
            http_ports.setdefault("kp1", port)
        self._ingress = Ingress(ingress_port, http_ports).start()
        self.http = f"http://127.0.0.1:{ingress_port}"
        self.api = Api(self.http, key)
        for name, port in [*http_ports.items()]:
            url = f"http://127.0.0.1:{port}/ready"
            eventually(f"{name} is ready", lambda url=url: request("GET", url, timeout=2).status == 200, within=60)
        for port in self.mqtt_ports:
            eventually("the gateway listens", lambda port=port: accepts(port))

    def _start_nats(self, port):
        command = [nats_server(), "-a", "127.0.0.1", "-p", port, "-js", "-sd", self.directory / "jetstream"]
        self.processes["nats-server"] = Supervised("nats-server", command, self.directory).start()
        eventually("nats-server listens", lambda: accepts(port))

    def _start_postgres(self, port):
        home = self.directory / "postgres"
        home.mkdir()
        if os.geteuid() == 0:
            shutil.chown(home, DATABASE_USER, DATABASE_USER)
        data, log = home / "data", self.directory / "initdb.log"
        initdb = [postgres_program("initdb"), "-D", data, "-U", DATABASE_USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        made = spawn([*initdb, "--no-sync"], log, user=DATABASE_USER)
        assert made.wait(60) == 0, log.read_text()
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 200}
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        command = [postgres_program("postgres"), "-D", data, *arguments]
        # SIGINT is PostgreSQL's "fast" stop, which does not wait for its clients.
        self.processes["postgres"] = Supervised(
            "postgres", command, self.directory, user=DATABASE_USER, stop_signal=signal.SIGINT
        ).start()
        eventually("PostgreSQL answers", lambda: self.query("SELECT 1") == [["1"]], within=30)

    def _start_service(self, name, service, port, environment):
        listen = {"BANDAR__HTTP__LISTEN": f"127.0.0.1:{port}"}
        self.processes[name] = Supervised(
            name, [bandar(), "run", service], self.directory, environment={**environment, **listen}
        ).start()

    def query(self, sql):
        """The rows of a query, as text."""
        command = [postgres_program("psql"), "-h", "127.0.0.1", "-p", str(self.database_port), "-U", DATABASE_USER]
        result = subprocess.run(
            [*command, "-d", "postgres", "-X", "-A", "-t", "-F", ",", "-c", sql],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return [line.split(",") for line in result.stdout.splitlines()]

    def stop(self):
        if self._ingress:
            self._ingress.stop()
        last = [self.processes.pop(name) for name in ("postgres", "nats-server") if name in self.processes]
        for process in [*self.processes.values(), *last]:
            process.stop()
