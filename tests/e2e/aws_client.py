"""A device or an application of AWS IoT's command pattern, on AWS's own SDK, with mutual TLS.

Arguments: role (`device` or `application`), port, client id, certificate, key, root certificate, thing. A
device answers each command on `cmd/<thing>/resp`; an application publishes each line of its input to
`cmd/<thing>/req`. Output: a JSON line when it has subscribed, and one for each message. Ends with its input.
"""

import json
import sys

from awscrt import mqtt
from awsiot import mqtt_connection_builder

role, port, client_id, certificate, key, root, thing = sys.argv[1:]
requests, responses = f"cmd/{thing}/req", f"cmd/{thing}/resp"


def say(**what):
    print(json.dumps(what), flush=True)


def resumed(connection, return_code, session_present, **_):
    if return_code == mqtt.ConnectReturnCode.ACCEPTED and not session_present:
        connection.resubscribe_existing_topics()


def received(topic, payload, dup, qos, retain, **_):
    text = payload.decode()
    if role == "device":
        connection.publish(topic=responses, payload=f"SUCCESS: {text}", qos=mqtt.QoS.AT_LEAST_ONCE)
    say(topic=topic, payload=text)


connection = mqtt_connection_builder.mtls_from_path(
    endpoint="localhost",
    port=int(port),
    cert_filepath=certificate,
    pri_key_filepath=key,
    ca_filepath=root,
    client_id=client_id,
    clean_session=False,
    keep_alive_secs=6,
    on_connection_resumed=resumed,
)
connection.connect().result(timeout=20)
heard = requests if role == "device" else responses
granted, _ = connection.subscribe(topic=heard, qos=mqtt.QoS.AT_LEAST_ONCE, callback=received)
say(subscribed=heard, qos=int(granted.result(timeout=20)["qos"]))
for line in sys.stdin:
    command = line.rstrip("\n")
    acknowledged, _ = connection.publish(topic=requests, payload=command, qos=mqtt.QoS.AT_LEAST_ONCE)
    acknowledged.result(timeout=20)
connection.disconnect().result(timeout=20)
