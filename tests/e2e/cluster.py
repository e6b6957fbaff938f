"""The platform as separate processes, each started again when it dies: the shape that Kubernetes gives it."""

import json
import os
import secrets
import shutil
import signal
import subprocess

import processes
from ingress import Ingress
from processes import Supervised, accepts, eventually, free_ports, postgres_program, spawn
from rest import Api, request

# Every service but the gateway.
SERVICES = ("tm", "tekton", "epr", "cm", "ccm", "epts", "dcx", "epmx", "epl", "cex")
# Who else has a NATS user: the edge of every process, the gateway, and an extension that a test starts.
OTHER_USERS = ("edge", "kpc", "echo")
DATABASE_USER = "postgres"


class Cluster:
    """nats-server, PostgreSQL, and one `bandar run` for each service and each replica of the gateway.

    `replicas` says of which services there are several; the ingress leads to the first."""

    def __init__(self, directory, gateways=1, replicas=None):
        self.directory = directory
        self.replicas = replicas or {}
        self.processes = {}
        self._ingress = None
        try:
            self._start(gateways)
        except BaseException:
            self.stop()
            raise

    def _start(self, gateways):
        key = secrets.token_hex(20)
        # A password begins with a letter, as nats-server wants it.
        self.nats_passwords = {user: f"p{secrets.token_hex(16)}" for user in (*SERVICES, *OTHER_USERS)}
        # What `bandar up` keeps for its users, for programs that look for it there.
        self.data = self.directory / "data"
        self.data.mkdir()
        (self.data / "credentials.json").write_text(json.dumps({"tenant": "e2e", "apiKey": key}))
        nats_port, self.database_port, ingress_port, *ports = free_ports(
            3 + len(self._service_processes()) + 2 * gateways
        )
        self._start_nats(nats_port)
        self._start_postgres(self.database_port)

        # Also for services that a test starts beside them.
        self.environment = environment = {
            "NATS_URL": f"nats://127.0.0.1:{nats_port}",
            "DATABASE_URL": f"postgres://{DATABASE_USER}@127.0.0.1:{self.database_port}/postgres",
            "BANDAR__HTTP__AUTH__PLATFORM_TENANT": "e2e",
            "BANDAR__NATS__USERS__EDGE": self.nats_passwords["edge"],
        }
        # What one service alone must know.
        own = {
            "cm": {"BANDAR__CM__TOKEN_KEY": secrets.token_hex(32)},
            "ccm": {"BANDAR__CCM__KEY_ENCRYPTION_KEY": secrets.token_hex(32)},
            "tm": {
                "BANDAR__TM__KEY_ENCRYPTION_KEY": secrets.token_hex(32),
                "BANDAR__TM__BOOTSTRAP__TENANT": "e2e",
                "BANDAR__TM__BOOTSTRAP__ADMIN_USER": "admin",
                "BANDAR__TM__BOOTSTRAP__ADMIN_PASSWORD": secrets.token_hex(12),
                "BANDAR__TM__BOOTSTRAP__API_KEY": key,
            },
        }
        self.http_ports = {}
        for name, service in self._service_processes():
            self.http_ports[name] = ports.pop()
            self._start_service(
                name, service, self.http_ports[name], {**environment, **own.get(service, {})}
            )
        self.mqtt_ports = []
        for name in ["kpc", *(f"kpc-{index}" for index in range(1, gateways))]:
            self.http_ports[name] = ports.pop()
            self.mqtt_ports.append(ports.pop())
            listen = {
                "BANDAR__KPC__MQTT__LISTEN": f"127.0.0.1:{self.mqtt_ports[-1]}",
                "BANDAR__KPC__MQTT__WS__LISTEN": "127.0.0.1:0",
            }
            self._start_service(name, "kpc", self.http_ports[name], {**environment, **listen})
        self._ingress = Ingress(
            ingress_port,
            {
                **self.http_ports,
                "kp1": self.http_ports["kpc"],
                "api": self.http_ports["tm"],
                "auth": self.http_ports["tm"],
            },
        ).start()
        self.http = f"http://127.0.0.1:{ingress_port}"
        self.api = Api(self.http, key)
        for name, port in self.http_ports.items():
            eventually(f"{name} is ready", lambda port=port: self._is_ready(port), within=60)

    def _service_processes(self):
        """(name of the process, service) of each replica."""
        return [
            (service if index == 0 else f"{service}-{index}", service)
            for service in SERVICES
            for index in range(self.replicas.get(service, 1))
        ]

    @staticmethod
    def _is_ready(port):
        return request("GET", f"http://127.0.0.1:{port}/ready", timeout=2).status == 200

    def _start_nats(self, port):
        # The users that a cluster has, as the platform itself prints them.
        printed = [processes.bandar(), "nats-config", "--extension", "echo"]
        users = subprocess.run(printed, capture_output=True, text=True, check=True, timeout=30).stdout
        config = self.directory / "nats-server.conf"
        store = json.dumps(str(self.directory / "jetstream"))
        config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: {store} }}\n{users}')
        passwords = {
            f"BANDAR_NATS_{user.upper()}": password for user, password in self.nats_passwords.items()
        }
        command = [processes.nats_server(), "-c", config]
        self.processes["nats-server"] = Supervised(
            "nats-server", command, self.directory, environment=passwords
        ).start()
        eventually("nats-server listens", lambda: accepts(port))

    def _start_postgres(self, port):
        home = self.directory / "postgres"
        home.mkdir()
        if os.geteuid() == 0:
            shutil.chown(home, DATABASE_USER, DATABASE_USER)
        data, log = home / "data", self.directory / "initdb.log"
        options = f"-U {DATABASE_USER} -A trust -E UTF8 --locale=C.UTF-8 --no-sync".split()
        made = spawn([postgres_program("initdb"), "-D", data, *options], log, user=DATABASE_USER)
        assert made.wait(60) == 0, log.read_text()
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200"
        )
        command = [postgres_program("postgres"), "-D", data, *options.split()]
        # SIGINT is PostgreSQL's "fast" stop, which does not wait for its clients.
        self.processes["postgres"] = Supervised(
            "postgres", command, self.directory, user=DATABASE_USER, stop_signal=signal.SIGINT
        ).start()
        eventually("PostgreSQL answers", lambda: self.query("SELECT 1") == [["1"]], within=30)

    def _start_service(self, name, service, port, environment):
        listen = {
            "BANDAR__HTTP__LISTEN": f"127.0.0.1:{port}",
            f"BANDAR__NATS__USERS__{service.upper()}": self.nats_passwords[service],
        }
        self.processes[name] = Supervised(
            name, [processes.bandar(), "run", service], self.directory, environment={**environment, **listen}
        ).start()

    def query(self, sql):
        """The rows of a query, as text."""
        options = f"-h 127.0.0.1 -p {self.database_port} -U {DATABASE_USER} -d postgres -X -A -t -F , -c"
        result = subprocess.run(
            [postgres_program("psql"), *options.split(), sql],
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
