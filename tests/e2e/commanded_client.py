"""A device as in Kaa's tutorial of commands: it never subscribes, executes `reboot` and `zero`, and reports with QoS 0.

It runs with paho-mqtt 1 and 2 alike. Arguments: port, application version, endpoint token, number of commands to execute.
Output: one JSON line per command. `zero` also sends a sample of zeros.
"""

import json
import queue
import random
import sys
import time

import paho.mqtt.client as mqtt

port, version, token, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
data_topic = f"kp1/{version}/dcx/{token}/json/32"
pushed = queue.Queue()
name = f"commanded-{random.randrange(10**9)}"

if hasattr(mqtt, "CallbackAPIVersion"):
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
else:
    client = mqtt.Client(client_id=name)


def sample(fuel, temperature):
    now = int(time.time() * 1000)
    client.publish(data_topic, json.dumps({"timestamp": now, "fuelLevel": fuel, "temperature": temperature}))


def execute(client, userdata, message):
    command_type = message.topic.split("/")[5]
    commands = json.loads(message.payload)
    if command_type == "zero":
        sample(0, 0)
    results = [
        {"id": command["id"], "statusCode": 200, "reasonPhrase": "OK", "payload": "Success"}
        for command in commands
    ]
    reported = client.publish(f"kp1/{version}/cex/{token}/result/{command_type}", json.dumps(results))
    for command in commands:
        pushed.put((reported, {"type": command_type, **command}))


for command_type in ("reboot", "zero"):
    client.message_callback_add(f"kp1/{version}/cex/{token}/command/{command_type}/status", execute)
client.connect("127.0.0.1", port, 60)
client.loop_start()
sample(100, 95)
for _ in range(count):
    reported, command = pushed.get(timeout=30)
    # It must leave before the connection ends.
    reported.wait_for_publish()
    print(json.dumps(command), flush=True)
client.disconnect()
client.loop_stop()
