"""Devices that speak MQTT through the paho client library, version 2."""

import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

V311 = mqtt.MQTTv311
V5 = mqtt.MQTTv5


class Device:
    """A connected client that keeps everything it gets. It never subscribes by itself."""

    def __init__(
        self,
        port,
        protocol=V311,
        *,
        client_id="",
        will=None,
        properties=None,
        login=None,
        tls=None,
        path=None,
        source="",
        refused=False,
    ):
        """`login` is a user name and a password, `tls` an SSL context, `path` that of a WebSocket, `source` the address
        that the connection comes from."""
        self._changed = threading.Condition()
        self.messages = []
        self.receipts = {}
        self.grants = {}
        self.connack = None
        self.disconnected = None
        # A lost connection stays lost, so that a test can see it.
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            transport="websockets" if path else "tcp",
            reconnect_on_failure=False,
        )
        if login:
            self.client.username_pw_set(*login)
        if tls:
            self.client.tls_set_context(tls)
        if path:
            self.client.ws_set_options(path=path)
        self.client.on_connect = lambda c, u, flags, reason, properties: self._note(
            lambda: setattr(self, "connack", (reason, properties))
        )
        self.client.on_disconnect = lambda c, u, flags, reason, properties: self._note(
            lambda: setattr(self, "disconnected", reason)
        )
        self.client.on_message = lambda c, u, message: self._note(lambda: self.messages.append(message))
        self.client.on_publish = lambda c, u, mid, reason, properties: self._note(
            lambda: self.receipts.setdefault(mid, (reason, properties))
        )
        self.client.on_subscribe = lambda c, u, mid, reasons, properties: self._note(
            lambda: self.grants.setdefault(mid, reasons)
        )
        if will:
            self.client.will_set(*will)
        self.client.connect("127.0.0.1", port, keepalive=30, bind_address=source, properties=properties)
        self.client.loop_start()
        if refused:
            self.wait("CONNACK or the end", lambda: self.connack or self.disconnected)
            return
        self.wait("CONNACK", lambda: self.connack)
        assert not self.connack[0].is_failure, self.connack

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def _note(self, change):
        with self._changed:
            change()
            self._changed.notify_all()

    def wait(self, what, check, within=10.0):
        """Waits until something that was noted makes `check` true."""
        with self._changed:
            self._changed.wait_for(check, within)
            result = check()
        assert result, (
            f"not within {within} s: {what}; messages: {[(m.topic, m.payload) for m in self.messages]}"
        )
        return result

    def publish(self, topic, payload, qos=1, **properties):
        """Sends a message and gives back its id."""
        info = self.client.publish(topic, payload, qos, **properties)
        assert info.rc == mqtt.MQTT_ERR_SUCCESS, info
        return info.mid

    def receipt(self, message_id, within=15.0):
        """The reason code of the acknowledgement of a message."""
        return self.wait(f"acknowledgement of {message_id}", lambda: self.receipts.get(message_id), within)[0]

    def reason_string(self, message_id):
        """The words that came with the acknowledgement (MQTT 5)."""
        return getattr(self.receipts[message_id][1], "ReasonString", None)

    def send(self, topic, payload, qos=1):
        """Sends a message and waits for its acknowledgement, which must be positive."""
        reason = self.receipt(self.publish(topic, payload, qos))
        assert not reason.is_failure, f"{topic}: {reason}"

    def message(self, topic, within=10.0):
        """The first message on a topic."""
        return self.wait(
            f"a message on {topic}",
            lambda: next((m for m in self.messages if m.topic == topic), None),
            within,
        )

    def subscribe(self, topic, qos=1):
        """Subscribes and gives back the granted reason code."""
        _, message_id = self.client.subscribe(topic, qos)
        return self.wait(f"SUBACK for {topic}", lambda: self.grants.get(message_id))[0]

    def ended(self, within=10.0):
        """Waits until the server has ended the connection, and gives back its reason."""
        return self.wait("the end of the connection", lambda: self.disconnected, within)

    def silence(self, seconds=0.3):
        """True when no message came for so long: for what must not happen there is nothing to wait for."""
        count = len(self.messages)
        time.sleep(seconds)
        return len(self.messages) == count


def refusal(port, protocol=V311, **options):
    """The reason that a client is refused for in CONNACK."""
    with Device(port, protocol, refused=True, **options) as device:
        assert device.connack, f"no CONNACK; the connection ended: {device.disconnected}"
        assert device.connack[0].is_failure, device.connack
        return str(device.connack[0])
