"""Client certificates, from the platform and from openssl."""

import subprocess

from devices import Device
from processes import eventually, program

X509 = "/ccm/api/v1/x509-credentials"
# Of openssl req: a new key.
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments):
    command = [
        program("openssl", variable="BANDAR_OPENSSL", install="install the package openssl"),
        *arguments,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=30)


def issue(api, directory, **body):
    """A client certificate: its resource, and the files of the certificate chain and of its key."""
    issued = api.call("POST", X509, expect=201, body=body)
    chain, key = directory / f"{issued['id']}.pem", directory / f"{issued['id']}.key"
    chain.write_text(issued["certificateChain"])
    key.write_text(issued["privateKey"])
    return issued, chain, key


def trust(platform, api, directory):
    """Waits until the gateways know the tenant's authority, which is made with its first certificate."""
    _, chain, key = issue(api, directory, commonName="probe")

    def is_trusted():
        with Device(platform.mqtt_tls_port, tls=platform.tls(chain, key), refused=True) as device:
            return device.connack

    eventually("the authority is trusted", is_trusted, within=3)


def issue_trusted(platform, api, directory, **body):
    """A client certificate of an authority that the gateways know."""
    trust(platform, api, directory)
    return issue(api, directory, **body)
